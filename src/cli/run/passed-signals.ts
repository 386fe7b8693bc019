import { constants } from "node:os";
import { onCtrlZ } from "../ctrl-z.ts";
import { exitStatus } from "../exit-status.ts";

/** Signals that end a wait for the lock. Once the command runs, they are passed on to it. */
const ending = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** Signals that are only passed on to the command. */
const passing = ["SIGWINCH", "SIGCONT"] as const;

/** The error of a signal that arrived before the command was run. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
  readonly status: number;

  constructor(signal: NodeJS.Signals) {
    super(`Ended by ${signal}: the command was not run`);
    this.status = exitStatus.signalled + constants.signals[signal];
  }
}

/** Settles as the step does; or rejects with the signal's reason, while the step goes on by itself. */
export async function unlessAborted<T>(step: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort);
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([step, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Settles as the step does; or resolves with `undefined` at the time limit or the next signal, while the step goes on by itself. */
export async function atMost<T>(
  milliseconds: number,
  signals: PassedSignals,
  step: Promise<T>,
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), milliseconds);
    void signals.next().then(() => resolve(undefined));
  });
  try {
    return await Promise.race([step, over]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Receives the signals to this process, and passes them on. The command is not in the terminal's foreground process group, so Ctrl-C and
 * the like reach it only through here. The handlers stay until this process ends, so that its exit status is always its own.
 */
export class PassedSignals {
  readonly #interruption = new AbortController();
  #receiver: ((signal: NodeJS.Signals) => void | Promise<void>) | undefined;

  constructor() {
    for (const signal of ending) process.on(signal, this.#end);
    for (const signal of passing) process.on(signal, this.#pass);
    // The command is stopped first, because otherwise it could read what is typed next. It gets SIGSTOP, because its group is orphaned, so
    // SIGTSTP would stop nothing: https://pubs.opengroup.org/onlinepubs/9699919799/functions/V2_chap02.html#tag_15_04_03
    onCtrlZ({
      stop: () => this.#receiver?.("SIGSTOP"),
      goOn: () => void this.#receiver?.("SIGCONT"),
    });
  }

  /** Aborts with an {@link Interrupted} when a signal arrives before there is a receiver. */
  get interrupted(): AbortSignal {
    return this.#interruption.signal;
  }

  /** From now on, signals go to `receiver`, which never throws or rejects. */
  passTo(receiver: (signal: NodeJS.Signals) => void | Promise<void>): void {
    this.#receiver = receiver;
  }

  /** Resolves with the next signal, which means that nothing is to be waited for any more. From now on, signals go nowhere else. */
  next(): Promise<NodeJS.Signals> {
    return new Promise((resolve) => this.passTo(resolve));
  }

  readonly #end = (signal: NodeJS.Signals): void => {
    if (this.#receiver === undefined) this.#interruption.abort(new Interrupted(signal));
    else void this.#receiver(signal);
  };

  readonly #pass = (signal: NodeJS.Signals): void => void this.#receiver?.(signal);
}
