import { ProcessStarter } from "./command-process.ts";

// The program that runs the command of `pg-locker run`. The command is its child, in a session of its own, so that signals to the
// terminal's processes don't reach it. If the run is killed, this program ends the command, and holds the lock until the command has
// ended: it has a copy of the socket of the lock's session, so the server doesn't see the connection end.

/** Made first, because its thread takes longest to start: it does so while the rest is loaded and the lock is taken. */
const starter = new ProcessStarter();
import("./commanded-runner.ts").then(
  ({ obeyRun }) => obeyRun(starter),
  // Perhaps no more files can be opened. The run reports it when this process has gone.
  () => process.exit(1),
);
