import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { runUnderLock } from "./keeper.ts";
import { planOf } from "./run-plan.ts";

/** `pg-locker run KEY -- COMMAND…`: flock(1) for a fleet. */
export const run: Command = {
  name: "run",
  synopsis: "KEY [options] -- COMMAND [ARGUMENT...]",
  summary: "hold the lock of a key while a command runs",
  keys: 1,
  takesRest: true,
  options: {
    ...keyOptions,
    ...databaseOptions,
    wait: { value: "optional" },
    timeout: { value: "required", short: "w" },
    nonblock: { value: "none", short: "n" },
    shared: { value: "none", short: "s" },
    exclusive: { value: "none", short: "x" },
    "conflict-exit-code": { value: "required", short: "E" },
    ttl: { value: "required" },
    grace: { value: "required" },
    shell: { value: "none" },
  },
  help: `Runs COMMAND while it holds the lock of KEY, and exits with its status. Where
the lock is not to be had, COMMAND is not run, and the status is 75, or 124
after a wait. Unlike flock, it does not wait unless it is told to.

  --wait[=DURATION]  wait: for as long as it takes, or as 10s or 1m30s say
  -w, --timeout N    wait so long; a bare number is seconds, as in flock
  -n, --nonblock     do not wait: the default
  -s, --shared       hold it beside others that do: readers
  -x, --exclusive    hold it alone: the default
  -E, --conflict-exit-code N   exit with N instead of 75 and 124
  --ttl DURATION     after so long without word of it the server frees the lock,
                     and COMMAND is dead before that; default 30s
  --grace DURATION   from SIGTERM to SIGKILL; default a third of the TTL, or 10s
  --namespace N      the namespace of the key; default 0
  --url URL          the database; default DATABASE_URL, or PGHOST and the like
  --shell            COMMAND is a line for /bin/sh

Example:
  pg-locker run nightly --wait=10m -- ./report.sh`,
  async run(given) {
    return await runUnderLock(planOf(given), given.values);
  },
};
