import { constants } from "node:os";
import type { ProcessStarter } from "./command-process.ts";
import type { FromRunner, ToRunner, Work } from "./control-channel.ts";
import { left } from "./deadline.ts";
import { SupervisedCommand } from "./supervised-command.ts";

//   idle ── the lock's socket ──▶ holding ── a command to run ──▶ due ── its lock is surely held ──▶ running
//                                    └── a signal, or the lock is lost ──┴──▶ over: the process ends
type State =
  | { readonly is: "idle" | "over" }
  | { readonly is: "holding"; readonly socket: unknown }
  | { readonly is: "due"; readonly work: Work; readonly socket: unknown }
  | { readonly is: "running"; readonly command: SupervisedCommand; readonly grace: number };

/** Does what the run says. */
class CommandedRunner {
  readonly #starter: ProcessStarter;
  #state: State = { is: "idle" };

  constructor(starter: ProcessStarter) {
    this.#starter = starter;
  }

  readonly onMessage = (message: ToRunner, socket: unknown): void => {
    switch (message.is) {
      case "hold":
        this.#state = { is: "holding", socket };
        tell({ is: "holding" });
        break;
      case "run":
        this.#expect(message.work);
        break;
      case "until":
        this.#relyUntil(message.until);
        break;
      case "signal":
        this.#signal(message.signal);
        tell({ is: "signalled" });
        break;
      case "stop":
        if (this.#state.is === "running") this.#state.command.stop("told", message.grace);
        else this.#endWith({ is: "not-started" });
        break;
    }
  };

  readonly onRunGone = (): void => {
    if (this.#state.is !== "running") process.exit();
    this.#state.command.stop("run-gone", this.#state.grace);
  };

  /** Starts the command when everything has been read that the run has said since, perhaps while this process was stopped. */
  #expect(work: Work): void {
    if (this.#state.is !== "holding") return;
    this.#state = { ...this.#state, is: "due", work };
    setImmediate(() => this.#runIfHeld());
  }

  #relyUntil(until: Work["until"]): void {
    if (this.#state.is === "running") this.#state.command.relyUntil(until);
    if (this.#state.is !== "due") return;
    this.#state = { ...this.#state, work: { ...this.#state.work, until } };
    setImmediate(() => this.#runIfHeld());
  }

  /** If the lock can't be relied on by now, the command starts when the run says that it has been refreshed. */
  #runIfHeld(): void {
    if (this.#state.is !== "due") return;
    const { work, socket } = this.#state;
    if (left(work.until) <= work.margin) return;
    const command = new SupervisedCommand(work, this.#starter);
    this.#state = { is: "running", command, grace: work.grace };
    if (command.leader !== undefined) tell({ is: "started", leader: command.leader });
    void command.ended.then((ending) => {
      // Perhaps it runs: the other process kills whatever has this one's mark, before it releases the lock.
      if (ending.is === "unknown" && command.leader === undefined) end(socket);
      else tell(ending, () => end(socket));
    });
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#state.is === "running") this.#state.command.signal(signal);
    else if (!harmless.has(signal)) {
      this.#endWith({ is: "ended", status: null, signal: constants.signals[signal] });
    }
  }

  #endWith(ending: FromRunner): void {
    if (this.#state.is !== "holding" && this.#state.is !== "due") return;
    const { socket } = this.#state;
    this.#state = { is: "over" };
    tell(ending, () => end(socket));
  }
}

/** The signals that end no command. */
const harmless: ReadonlySet<string> = new Set(["SIGSTOP", "SIGCONT", "SIGWINCH"]);

/** From now on, does what the run says. */
export function obeyRun(starter: ProcessStarter): void {
  const runner = new CommandedRunner(starter);
  process.on("message", runner.onMessage);

  // Ignored, because the run passes them on. A run around this one signals all its processes, and so also this one.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const)
    process.on(signal, () => {});

  process.on("disconnect", runner.onRunGone);
  // The run may have gone before this process listened.
  if (!process.connected) runner.onRunGone();
}

/** Ends the process, which closes the socket. It takes the socket so that it isn't garbage-collected before. */
function end(_socket: unknown): void {
  process.exit();
}

function tell(message: FromRunner, done: () => void = () => {}): void {
  if (process.connected) process.send?.(message, undefined, undefined, done);
  else done();
}
