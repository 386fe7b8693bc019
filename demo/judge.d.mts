/** What a process wrote down; `at` is milliseconds on the machine's monotonic clock. */
export interface Line {
  readonly at: number;
  readonly worker: number;
  readonly pid: number;
  readonly what: "acquired" | "read" | "working" | "wrote" | "corrupted" | "lost" | "releasing";
  readonly counter?: number;
  readonly complaint?: string;
}

export interface Turn {
  readonly worker: number;
  readonly pid: number;
  readonly start: number;
  readonly end: number;
  readonly ended: "released" | "killed" | "lost" | "unfinished";
  readonly killedAt?: number;
  readonly read?: number;
  readonly wrote?: number;
  readonly complaints: readonly string[];
}

export interface Overlap {
  readonly first: Turn;
  readonly second: Turn;
  readonly milliseconds: number;
}

export interface Takeover {
  readonly killed: Turn;
  readonly next: Turn | undefined;
  readonly milliseconds: number | undefined;
}

export function turnsOf(lines: readonly Line[], kills: ReadonlyArray<{ pid: number; at: number }>): Turn[];
export function overlapsOf(turns: readonly Turn[]): Overlap[];
export function corruptionsOf(turns: readonly Turn[], counter: number): string[];
export function takeoversOf(turns: readonly Turn[]): Takeover[];
