import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure } from "./failure.ts";
import { lockOptions } from "./how-locks-are-taken.ts";
import { planOf } from "./run/plan.ts";

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
    ...lockOptions,
    wait: { value: "optional" },
    timeout: { value: "required", short: "w" },
    nonblock: { value: "none", short: "n" },
    shared: { value: "none", short: "s" },
    exclusive: { value: "none", short: "x" },
    "conflict-exit-code": { value: "required", short: "E" },
    ttl: { value: "required" },
    grace: { value: "required" },
    "recovery-grace": { value: "required" },
    shell: { value: "none" },
  },
  help: `Takes the lock of KEY, runs COMMAND, gives the lock back, and exits with the
status of COMMAND. Where somebody else has the lock, COMMAND is not run: status
75, or 124 after a wait. Unlike flock, it does not wait unless told to.

  --wait[=DURATION]  wait for the lock: as long as it takes, or 10s, 1m30s, ...
  -w, --timeout N    wait so long: N seconds, or a duration; -n, --nonblock: not
  -s, --shared       hold it beside other shared ones; -x, --exclusive: alone
  -E, --conflict-exit-code N   exit with N, not 75 or 124; with 0, silently
  --ttl DURATION     how long the server keeps the lock of a holder that it does
                     not hear from; COMMAND is dead before. Default 30s
  --grace DURATION   where COMMAND is stopped, from SIGTERM to SIGKILL; default
                     a third of the TTL, at most 10s
  --recovery-grace DURATION   grant nothing for that long after a restart, crash
                     or failover of the server; the same for all who use KEY
  --namespace N      of the key, default 0; --no-fencing: draw no token
  --pooler=session   trust a pooler in session mode
  --url URL          the database (default DATABASE_URL, ...); --local: your own
  --shell            COMMAND is a line for /bin/sh

Example:
  pg-locker run nightly --wait=10m -- ./report.sh`,
  async run(given) {
    const plan = planOf(given);
    refuseBun();
    const { runUnderLock } = await import("./run/run-under-lock.ts");
    return await runUnderLock(plan, given.values);
  },
};

/** It takes a socket that one process hands to another. */
function refuseBun(): void {
  const { bun } = process.versions;
  if (bun === undefined) return;
  throw new Failure(
    exitStatus.failed,
    `Expected Node.js, and this is Bun ${bun}, which can't hand a lock's connection to a second process: run pg-locker with node`,
  );
}
