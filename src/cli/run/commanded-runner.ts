import type { ProcessStarter } from "./command-process.ts";
import type { FromRunner, ToRunner, Work } from "./control-channel.ts";
import { SupervisedCommand } from "./supervised-command.ts";

let command: SupervisedCommand | undefined;
let work: Work | undefined;

/** From now on, does what the keeper says. */
export function obeyKeeper(starter: ProcessStarter): void {
  process.on("message", (message: ToRunner, socket: unknown) => {
    switch (message.is) {
      case "run":
        run(message.work, { socket, starter });
        break;
      case "until":
        command?.relyUntil(message.until);
        break;
      case "signal":
        command?.signal(message.signal);
        tell({ is: "signalled" });
        break;
      case "stop":
        command?.stop("told", message.grace);
        break;
    }
  });

  // Ignored, because the keeper passes them on. A run around this one signals all its processes, and so also this one.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const)
    process.on(signal, () => {});

  process.on("disconnect", onKeeperGone);
  // The keeper may have gone before this process listened.
  if (!process.connected) onKeeperGone();
}

function onKeeperGone(): void {
  if (command === undefined || work === undefined) process.exit();
  command.stop("keeper-gone", work.grace);
}

function run(given: Work, { socket, starter }: { socket: unknown; starter: ProcessStarter }): void {
  work = given;
  command = new SupervisedCommand(given, starter);
  if (command.leader !== undefined) tell({ is: "started", leader: command.leader });
  void command.ended.then((ending) => tell(ending, () => end(socket)));
}

/** Ends the process, which closes the socket. It takes the socket so that it isn't garbage-collected before. */
function end(_socket: unknown): void {
  process.exit();
}

function tell(message: FromRunner, done: () => void = () => {}): void {
  if (process.connected) process.send?.(message, undefined, undefined, done);
  else done();
}
