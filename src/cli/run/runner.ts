import { ProcessStarter } from "./command-process.ts";

// The program that runs the command of `pg-locker run`, whose child it is, in a session of its own: no signal to the terminal's
// processes reaches it. Where the keeper is killed, it ends the command, and keeps the lock until that has ended: it has a copy of
// the socket of the lock's session, so that the server does not see the connection end.

/** Its thread takes longest to start: it does so while the rest is loaded, and the lock is taken. */
const starter = new ProcessStarter();
import("./commanded-runner.ts").then(
  ({ obeyKeeper }) => obeyKeeper(starter),
  // It may be that no file can be opened any more, which the keeper says when this is gone.
  () => process.exit(1),
);
