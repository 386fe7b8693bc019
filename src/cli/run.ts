import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure } from "./failure.ts";
import { lockOptions } from "./how-locks-are-taken.ts";
import { lockIdOptions } from "./lock-ids.ts";
import { planOf } from "./run/plan.ts";

/** `pg-locker run KEY -- COMMAND…`: runs a command under a lock, as flock(1) does on one machine. */
export const run: Command = {
  name: "run",
  synopsis: "KEY [options] -- COMMAND [ARGUMENT...]",
  summary: "hold the lock of a key while a command runs",
  keys: 1,
  takesRest: true,
  options: {
    ...keyOptions,
    ...databaseOptions,
    ...lockOptions,
    ...lockIdOptions,
    wait: { value: "optional" },
    timeout: { value: "required", short: "w" },
    nonblock: { value: "none", short: "n" },
    shared: { value: "none", short: "s" },
    exclusive: { value: "none", short: "x" },
    "conflict-exit-code": { value: "required", short: "E" },
    ttl: { value: "required" },
    grace: { value: "required" },
    "recovery-grace": { value: "required" },
    name: { value: "required" },
    detail: { value: "required" },
    shell: { value: "none" },
  },
  help: `Takes the lock of KEY, runs COMMAND, releases the lock, and exits with the
status of COMMAND. If somebody else has the lock, COMMAND is not run: status 75,
or 124 after a wait. Unlike flock, it does not wait unless told to.

  --wait[=DURATION]  wait for the lock: as long as it takes, or 10s, 1m30s, ...
  -w, --timeout N    wait at most N seconds or a duration; -n, --nonblock: don't
  -s, --shared       share it with other shared holders; -x, --exclusive: don't
  -E, --conflict-exit-code N   exit with N, not 75 or 124; 0 also says nothing
  --ttl DURATION     how long the server keeps the lock if it hears nothing from
                     pg-locker; COMMAND is stopped before that. Default 30s
  --grace DURATION   time between SIGTERM and SIGKILL if COMMAND is stopped;
                     default a third of the TTL, at most 10s
  --recovery-grace DURATION   grant nothing this long after a restart, crash or
                     failover of the server; must be the same for all users
  --namespace N, --lock-ids sha256   see who --help; --no-fencing: draw no token
  --name TEXT, --detail TEXT   what "pg-locker who" and "ls" show with the lock
  --pooler=session   accept a pooler in session mode; --shell: COMMAND is a line
  --url URL          the database (default DATABASE_URL, ...); --local: your own

Example:
  pg-locker run nightly --wait=10m -- ./report.sh`,
  async run(given) {
    const plan = planOf(given);
    refuseBun();
    const { runUnderLock } = await import("./run/run-under-lock.ts");
    return await runUnderLock(plan, given.values);
  },
};

/** Refuses Bun, which can't pass a socket from one process to another. */
function refuseBun(): void {
  const { bun } = process.versions;
  if (bun === undefined) return;
  throw new Failure(
    exitStatus.failed,
    `Expected Node.js, but this is Bun ${bun}, which can't hand a lock's connection to a second process: run pg-locker with node`,
  );
}
