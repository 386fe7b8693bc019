/** A defect, where it is to be put, and the test that has to see it. */
export interface Mutant {
  readonly name: string;
  readonly says: string;
  readonly file: string;
  readonly what: string;
  readonly by: string;
  readonly caughtBy: { readonly file: string; readonly test: string };
}

export const mutants: readonly Mutant[];
