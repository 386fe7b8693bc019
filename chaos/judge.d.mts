/** A line of a worker's journal: what happened, then its facts. */
export type Line = readonly [what: string, ...facts: ReadonlyArray<string | number>];

/** A belief: times in milliseconds on the machine's monotonic clock. */
export interface Claim {
  readonly worker: number;
  readonly key: string;
  readonly ttl: number;
  readonly token: bigint;
  readonly asked: number;
  readonly start: number;
  readonly end: number;
  readonly why: "released" | "expired" | "lost" | "cut short";
}

/** Sessions ended by others: those of a worker or of all, those of some keys or of all. */
export interface Ending {
  readonly kind: string;
  readonly worker?: number | undefined;
  readonly keys?: readonly string[] | undefined;
  /** Only those of the server that grants tokens of this timeline. */
  readonly timeline?: number | undefined;
  /** They are not ended: beside their server there is another, which knows nothing of them. */
  readonly beside?: boolean | undefined;
  readonly at: number;
  readonly until: number;
}

export interface Overlap {
  readonly first: Claim;
  readonly second: Claim;
  readonly at: number;
  readonly milliseconds: number;
}

export interface Row {
  readonly key: string;
  readonly pid: number;
  readonly worker: number | undefined;
}

export interface Sample {
  readonly from: number;
  readonly to: number;
  readonly rows: readonly Row[];
}

export interface Put {
  readonly worker: number;
  readonly token: bigint;
  readonly outcome: "accepted" | "refused";
  readonly from: number;
  readonly to: number;
}

export interface Fault {
  readonly kind: string;
  readonly worker?: number | undefined;
  readonly at: number;
}

export function claimsOf(worker: number, lines: readonly Line[]): Claim[];
export function overlapsOf(claims: readonly Claim[]): Overlap[];
export function endedByOthers(claim: Claim, at: number, endings: readonly Ending[]): Ending | undefined;
export function judgeOverlaps(
  claims: readonly Claim[],
  endings: readonly Ending[],
): { overlaps: Array<Overlap & { kind: string | undefined; warned: boolean }>; wrong: string[] };
export function judgeTokens(claims: readonly Claim[], endings: readonly Ending[]): string[];
export function staleWrites(writes: ReadonlyArray<{ key: string; token: string }>): string[];
export function refusedInBelief(
  claims: readonly Claim[],
  puts: readonly Put[],
  endings: readonly Ending[],
): string[];
export function judgeClaims(
  claims: readonly Claim[],
  samples: readonly Sample[],
  endings: readonly Ending[],
): { checks: number; excused: number; wrong: string[] };
export function judgeRows(
  claims: readonly Claim[],
  samples: readonly Sample[],
  allowed: number,
): { longest: number; wrong: string[] };
export function unavailability(
  claims: readonly Claim[],
  faults: readonly Fault[],
): Array<{ fault: Fault; key: string; milliseconds: number }>;
export function voidBecause(facts: {
  acquires: number;
  seconds: number;
  floor: number;
  faults: ReadonlyArray<{ kind: string }>;
  kinds: readonly string[];
  samples: number;
}): string[];
