import { constants } from "node:os";
import { onCtrlZ } from "../ctrl-z.ts";
import { exitStatus } from "../exit-status.ts";

/** They end a wait for the lock; once the command runs, they are for the command. */
const ending = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** They mean nothing to whoever waits. */
const passing = ["SIGWINCH", "SIGCONT"] as const;

/** A signal came before the command was run. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
  readonly status: number;

  constructor(signal: NodeJS.Signals) {
    super(`Ended by ${signal}: the command was not run`);
    this.status = exitStatus.signalled + constants.signals[signal];
  }
}

/** Settles as a step does; or rejects with the signal's reason, and leaves the step to itself. */
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

/** Settles as a step does; with `undefined`, and leaves the step to itself, after so many milliseconds or with the next signal. */
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
 * Takes the signals that this process gets, and passes them on. The command is not in the terminal's foreground process group, so Ctrl-C
 * and the like reach it only through here. They are taken until this process ends, with the status that it has by then.
 */
export class PassedSignals {
  readonly #interruption = new AbortController();
  #receiver: ((signal: NodeJS.Signals) => void | Promise<void>) | undefined;

  constructor() {
    for (const signal of ending) process.on(signal, this.#end);
    for (const signal of passing) process.on(signal, this.#pass);
    // The command stops first: else it could read what is typed next. Its group is an orphaned one, in which SIGTSTP stops nobody
    // (https://pubs.opengroup.org/onlinepubs/9699919799/functions/V2_chap02.html#tag_15_04_03), and SIGSTOP does.
    onCtrlZ({
      stop: () => this.#receiver?.("SIGSTOP"),
      goOn: () => void this.#receiver?.("SIGCONT"),
    });
  }

  /** Aborts with an {@link Interrupted} when a signal comes that nobody is there for. */
  get interrupted(): AbortSignal {
    return this.#interruption.signal;
  }

  /** From now on the signals are for `receiver`, which never throws or rejects. */
  passTo(receiver: (signal: NodeJS.Signals) => void | Promise<void>): void {
    this.#receiver = receiver;
  }

  /** From now on the first signal means that there is to be no more waiting: resolves with it. */
  next(): Promise<NodeJS.Signals> {
    return new Promise((resolve) => this.passTo(resolve));
  }

  readonly #end = (signal: NodeJS.Signals): void => {
    if (this.#receiver === undefined) this.#interruption.abort(new Interrupted(signal));
    else void this.#receiver(signal);
  };

  readonly #pass = (signal: NodeJS.Signals): void => void this.#receiver?.(signal);
}
