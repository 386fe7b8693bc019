/**
 * What the exit statuses of `pg-locker` mean, where they are not those of the command that it runs. After sysexits.h, timeout(1)
 * and the shell. `docs/cli.md` has the same table.
 */
export const exitStatus = {
  ok: 0,
  /** A line of `doctor` fails; `who` finds nobody; `server status` finds no server, `server stop` one that is in use. */
  no: 1,
  /** The arguments can't be used: nothing was done. */
  usage: 64,
  /** The database can't be reached, or its locks can't be trusted. */
  unavailable: 69,
  /** Whatever else went wrong. */
  failed: 70,
  /** Somebody else has the lock: the command was not run. `-E` says otherwise. */
  notAcquired: 75,
  /** The lock was lost, and the command was stopped. */
  lockLost: 79,
  /** Somebody else had the lock for as long as was waited: the command was not run. `-E` says otherwise. */
  waitTimedOut: 124,
  /** The command can't be run. */
  notExecutable: 126,
  notFound: 127,
  /** And the number of the signal that ended the command. */
  signalled: 128,
} as const;
