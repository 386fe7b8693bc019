import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { CliChild } from "../support/cli.ts";
import { advisoryLocks, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { taggedProcesses } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

// The process that runs the command may be stopped, or slow, while `pg-locker` takes the lock. However late it comes to run the command,
// the command doesn't begin unless the lock is held then.

const patient = { deadline: 15_000 };

/** A run that holds its lock, with a TTL of a second, while its runner is stopped before it has run the command. */
async function stoppedBeforeItRuns(): Promise<{ key: string; child: CliChild; runner: number }> {
  const key = uniqueKey();
  const before = createLocker();
  const lock = await before.acquire(key);
  const args = ["run", key, "--ttl", "1s", "--wait", "--", "echo", "run"];
  const child = CliChild.start(args, onDatabase());
  await until(async () => (await advisoryLocks()).some(({ granted }) => !granted), patient);
  const { pid: runner } = await until(
    () => taggedProcesses().find(({ command }) => command.includes("runner.js")),
    patient,
  );
  process.kill(runner, "SIGSTOP");
  await lock.release();
  await before.close();
  const [pid] = await until(async () => {
    const pids = await holdersOf(lockId(0, key));
    return pids.length > 0 && pids;
  }, patient);
  // It surely has the lock once it has sent two more statements. Before that it would wait on if the lock were lost.
  const latest = async () =>
    (await onServer("select query_start::text from pg_stat_activity where pid = $1", [pid]))[0]?.[
      "query_start"
    ];
  for (let sent = 0; sent < 2; sent += 1) {
    const before = await latest();
    await until(async () => (await latest()) !== before, patient);
  }
  return { key, child, runner };
}

const longerThanTheTtl = () => new Promise((resolve) => setTimeout(resolve, 1_500));

describe("a runner that stands still for longer than the TTL before it runs the command", () => {
  test("runs it if the lock has been refreshed in the meantime", async () => {
    const { child, runner } = await stoppedBeforeItRuns();
    await using _child = child;
    await longerThanTheTtl();
    process.kill(runner, "SIGCONT");
    expect(await child.ended).toMatchObject({ status: 0, stdout: "run\n", stderr: "" });
  });

  test("waits for the next refresh if it knows of none in time", async () => {
    const { child, runner } = await stoppedBeforeItRuns();
    await using _child = child;
    child.signal("SIGSTOP");
    await longerThanTheTtl();
    process.kill(runner, "SIGCONT");
    await longerThanTheTtl();
    expect(child.stdout).toBe("");
    child.signal("SIGCONT");
    // The server has freed the lock.
    const { status, stdout, stderr } = await child.ended;
    expect([status, stdout]).toEqual([79, ""]);
    expect(stderr).toMatch(/^pg-locker: Lock .*; the command was not run\n$/);
  });

  test("doesn't run it if the lock was lost in the meantime", async () => {
    const { key, child } = await stoppedBeforeItRuns();
    await using _child = child;
    const [pid] = await holdersOf(lockId(0, key));
    // The runner is woken to be told of it.
    await onServer("select pg_terminate_backend($1)", [pid]);
    const { status, stdout, stderr } = await child.ended;
    expect([status, stdout]).toEqual([79, ""]);
    expect(stderr).toMatch(/^pg-locker: Lock .*; the command was not run\n$/);
  });

  test("doesn't run it after a signal", async () => {
    const { child } = await stoppedBeforeItRuns();
    await using _child = child;
    await longerThanTheTtl();
    // A signal wakes the runner.
    child.signal("SIGTERM");
    expect(await child.ended).toMatchObject({ status: 143, stdout: "", stderr: "" });
  });
});
