import type { Exit } from "./command-process.ts";
import type { Moment } from "./deadline.ts";
import type { Program } from "./program.ts";

// What `pg-locker run` (the keeper), which has the lock, and the runner, which has the command, say to each other.

/** A command, and how long the lock that it runs under may be relied on. */
export interface Work {
  readonly program: Program;
  /** What the runner has got from the keeper to hand on. */
  readonly descriptors: readonly number[];
  /** Whether Node.js can't say all of the environment: see `rawEnvironment`. */
  readonly isRaw: boolean;
  /** On top of the runner's own. */
  readonly environment: Readonly<Record<string, string>>;
  /** By which what the command starts is known: see `CommandTree`. */
  readonly mark: string;
  /** When the server may free the lock, unless there is newer word. */
  readonly until: Moment;
  /** Milliseconds between SIGTERM and SIGKILL. */
  readonly grace: number;
  /** Milliseconds before `until` at which everything is to be dead. */
  readonly margin: number;
}

/** The message `run` comes with a copy of the socket of the lock's session. */
export type ToRunner =
  | { readonly is: "run"; readonly work: Work }
  | { readonly is: "until"; readonly until: Moment }
  | { readonly is: "signal"; readonly signal: NodeJS.Signals }
  | { readonly is: "stop"; readonly grace: number };

/** Why a command was stopped: the keeper said so, or has gone, or gave no newer word in time. */
export type StopReason = "told" | "keeper-gone" | "deadline";

/** What became of a command. `code` of one that was not run is the system's, such as `"ENOENT"`. */
export type Ending = Exit & { readonly stopped?: StopReason };

/** Each signal that was passed on is `signalled` in turn. */
export type FromRunner =
  | { readonly is: "started"; readonly leader: number }
  | { readonly is: "signalled" }
  | Ending;
