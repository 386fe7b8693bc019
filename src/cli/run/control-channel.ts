import type { Exit } from "./command-process.ts";
import type { Moment } from "./deadline.ts";
import type { Program } from "./program.ts";

// The messages between the run, which is the process `pg-locker run` and holds the lock, and the runner, which runs the command.

/** A command, and how long the lock that it runs under may be relied on. */
export interface Work {
  readonly program: Program;
  /** The inherited descriptors that the runner passes on. */
  readonly descriptors: readonly number[];
  /** Whether the environment has bytes that Node.js can't represent: see `isRawEnvironment`. */
  readonly isRaw: boolean;
  /** Variables to add to the runner's own environment. */
  readonly environment: Readonly<Record<string, string>>;
  /** When the server may free the lock, unless a later message moves that. */
  readonly until: Moment;
  /** Milliseconds between SIGTERM and SIGKILL. */
  readonly grace: number;
  /** How many milliseconds before `until` everything must be dead. */
  readonly margin: number;
}

/**
 * The message `hold` carries a copy of the socket of the lock's session. Nothing else is sent before that has arrived, perhaps because the
 * runner is stopped. So the command comes only after the answer `holding`, with what is known of the lock by then.
 */
export type ToRunner =
  | { readonly is: "hold" }
  | { readonly is: "run"; readonly work: Work }
  | { readonly is: "until"; readonly until: Moment }
  | { readonly is: "signal"; readonly signal: NodeJS.Signals }
  | { readonly is: "stop"; readonly grace: number };

/** Why a command was stopped: the run said so, the run has gone, or it sent no later `until` in time. */
export type StopReason = "told" | "run-gone" | "deadline";

/** How a command ended. If it could not be run, `code` is the system's, such as `"ENOENT"`. */
export type Ending = Exit & { readonly stopped?: StopReason };

/** The runner was told to stop before it ran the command. */
export interface NotStarted {
  readonly is: "not-started";
}

/** Each `signal` that was passed on is answered by a `signalled`, in order. */
export type FromRunner =
  | { readonly is: "holding" }
  | { readonly is: "started"; readonly leader: number }
  | { readonly is: "signalled" }
  | Ending
  | NotStarted;
