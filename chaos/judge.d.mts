/** A claim: times in milliseconds on the machine's monotonic clock. */
export interface Claim {
  readonly worker: number;
  readonly key: string;
  readonly mode: "exclusive" | "shared";
  readonly ttl: number;
  /** `undefined`: it is the lock of a transaction. */
  readonly token: bigint | undefined;
  /** Of the server that granted it. */
  readonly timeline: number;
  readonly asked: number;
  readonly start: number;
  readonly end: number;
  readonly why: "released" | "committed" | "expired" | "lost" | "cut short";
  /** Writes with its token that were refused while it was held. */
  readonly refused: ReadonlyArray<{ readonly from: number; readonly to: number }>;
}

/** A fault that ended sessions from outside: those of one worker, or all. */
export interface Ending {
  readonly kind: string;
  readonly worker?: number | undefined;
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
  readonly kind: string | undefined;
  readonly warned: boolean;
}

export interface Row {
  readonly pid: number;
  readonly mode: "exclusive" | "shared";
  readonly worker: number | undefined;
  /** What its backend is at, and for how long. */
  readonly doing?: string;
}

export interface Sample {
  readonly from: number;
  readonly to: number;
  readonly rows: ReadonlyMap<string, readonly Row[]>;
}

export interface Fault {
  readonly kind: string;
  readonly worker?: number | undefined;
  readonly at: number;
  readonly until: number;
}

/** A time in which a worker may have a lock of a key without a claim. */
export type Span = Pick<Claim, "worker" | "key" | "start" | "end">;

export function endedByOthers(claim: Claim, at: number, endings: readonly Ending[]): Ending | undefined;
export class Overlaps {
  constructor(endings: readonly Ending[], onOverlap?: (overlap: Overlap) => void);
  readonly wrong: string[];
  claim(second: Claim): void;
}
export class Tokens {
  constructor(endings: readonly Ending[]);
  readonly wrong: string[];
  claim(claim: Claim): void;
}
export class StaleWrites {
  readonly wrong: string[];
  readonly accepted: number;
  write(row: { key: string; token: string }): void;
}
export function refusedWhileClaimed(claim: Claim, endings: readonly Ending[]): string[];
export function judgeClaim(
  claim: Claim,
  samples: readonly Sample[],
  endings: readonly Ending[],
): { checks: number; excused: number; wrong: string[] };
export class Rows {
  constructor(allowed: (key: string) => number);
  readonly longest: { readonly milliseconds: number; readonly ofAllowed: number };
  readonly wrong: string[];
  claim(span: Span): void;
  late(span: Pick<Span, "worker" | "start" | "end">): void;
  sample(sample: Sample): void;
}
export function lostByStall(claim: Claim, faults: readonly Fault[]): { isKept: boolean; wrong: string[] };
export function hasLostItsRow(claim: Claim, settled: number, endings: readonly Ending[]): boolean;
export class Unavailability {
  constructor(
    faults: readonly Fault[],
    onCost: (cost: { fault: Fault; key: string; milliseconds: number }) => void,
  );
  claim(claim: Claim): void;
}
export function voidBecause(facts: {
  acquires: number;
  seconds: number;
  floor: number;
  faults: ReadonlySet<string>;
  kinds: readonly string[];
  samples: number;
  did: ReadonlyMap<string, number>;
  ways: readonly string[];
}): string[];
