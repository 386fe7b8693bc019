/**
 * What the exit statuses of `pg-locker` mean, unless it passes on the status of the command that it ran. They follow sysexits.h, timeout(1)
 * and the shell. `docs/cli.md` has the same table.
 */
export const exitStatus = {
  ok: 0,
  /** A line of `doctor` fails; `who` finds nobody; `server status` finds no server, `server stop` one that is in use. */
  no: 1,
  /** The arguments can't be used. Nothing was done. */
  usage: 64,
  /** The database can't be reached, its locks can't be trusted, or what connects to it is not installed. */
  unavailable: 69,
  /** Any other error. */
  failed: 70,
  /** Somebody else holds the lock, so the command was not run. `-E` sets another status. */
  notAcquired: 75,
  /** The lock was lost, and the command was stopped. */
  lockLost: 79,
  /** Somebody else held the lock during the whole wait, so the command was not run. `-E` sets another status. */
  waitTimedOut: 124,
  /** The command can't be run. */
  notExecutable: 126,
  notFound: 127,
  /** 128, to which the number of the signal that ended the command is added. */
  signalled: 128,
} as const;
