import { ProcessStarter } from "./command-process.ts";
import type { FromRunner, ToRunner } from "./control-channel.ts";
import { SupervisedCommand } from "./supervised-command.ts";

// The program that runs the command of `pg-locker run`, whose child it is, in a session of its own: no signal to the terminal's
// processes reaches it. Where the keeper is killed, it ends the command, and keeps the lock until that has ended: it has a copy of
// the socket of the lock's session, so that the server does not see the connection end.

/** Its thread starts while the lock is being taken. */
const starter = new ProcessStarter();
let command: SupervisedCommand | undefined;
let work: Extract<ToRunner, { is: "run" }>["work"] | undefined;

process.on("message", (message: ToRunner, socket: unknown) => {
  switch (message.is) {
    case "run":
      run(message.work, socket);
      break;
    case "until":
      command?.believeUntil(message.until);
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

// They are for the keeper, which passes them on. Whoever signals everything, such as a run around this one, signals this, too.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const)
  process.on(signal, () => {});

process.on("disconnect", onKeeperGone);
// It may have gone before there was anybody to hear of it.
if (!process.connected) onKeeperGone();

function onKeeperGone(): void {
  if (command === undefined || work === undefined) process.exit();
  command.stop("keeper-gone", work.grace);
}

function run(given: NonNullable<typeof work>, socket: unknown): void {
  work = given;
  command = new SupervisedCommand(given, starter);
  if (command.leader !== undefined) tell({ is: "started", leader: command.leader });
  void command.ended.then((ending) => tell(ending, () => end(socket)));
}

/** The end of this process is what closes the socket, which until then has to be kept from the garbage collector. */
function end(_socket: unknown): void {
  process.exit();
}

function tell(message: FromRunner, done: () => void = () => {}): void {
  if (process.connected) process.send?.(message, undefined, undefined, done);
  else done();
}
