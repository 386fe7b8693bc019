// biome-ignore lint/correctness/useImportExtensions: the declarations are meant, as everywhere else
import type { Claim, Sample, Span } from "./judge.mjs";

export interface Judge {
  claim(claim: Claim, samples: readonly Sample[]): void;
  span(span: Span): void;
  late(span: Pick<Span, "worker" | "start" | "end">): void;
  sample(sample: Sample): void;
  transaction(outcome: { claim: Claim; how: string; isThere: boolean; settled: number }): void;
}

export class History {
  readonly did: ReadonlyMap<string, number>;
  readonly wrong: readonly string[];
  constructor(parts: {
    keys: ReadonlyArray<{ readonly name: string }>;
    keep: boolean;
    now: () => number;
    judge: Judge;
    committed: (ids: readonly string[]) => Promise<ReadonlySet<string>>;
  });
  life(facts: { worker: number; journal: string; writer: string }): () => void;
  sample(sample: Sample): void;
  advance(): number;
  finish(): Promise<void>;
}
