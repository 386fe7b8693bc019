import { describe, expect, test } from "vitest";
import { cli } from "../support/cli.ts";
import { Freezer } from "../support/freezer.ts";
import { onDatabase, runLocked } from "../support/locked-command.ts";
import { until } from "../support/until.ts";

// A machine that sleeps: everything on it stands still, and the server is elsewhere. The kernel's freezer does that to `pg-locker`, the
// runner and the command for real. It leaves the monotonic clock running, which a suspended machine stops: `cli-run-supervision.test.ts`
// has a deadline that has passed on the wall clock only.

/** Milliseconds from waking up to the command's death: half a second, and what a busy machine adds. Less than the grace. */
const soon = 2_500;

describe.skipIf(!Freezer.allowed)("pg-locker, frozen with its command (skipped without root)", () => {
  test("kills the command as soon as it wakes up, without a grace: 79", async () => {
    const args = ["--ttl", "10s", "--grace", "5s"];
    await using locked = await runLocked("trap 'echo got TERM' TERM; while :; do sleep 0.1; done", { args });
    const { key, pid, runner, cli: run } = locked;
    await using freezer = Freezer.of([run.process.pid ?? 0, runner, pid]);
    await freezer.freeze();
    // The server frees the lock meanwhile, and somebody else takes it.
    await until(async () => !(await locked.isLocked()), { deadline: 20_000 });
    expect(await cli(["run", key, "--", "echo", "run"], onDatabase())).toMatchObject({ status: 0 });
    expect(locked.lives).toBe(true);
    freezer.thaw();
    await until(() => !locked.lives, { deadline: soon });
    const { status, stderr } = await run.ended;
    expect(status).toBe(79);
    expect(stderr).toMatch(/^pg-locker: Lock "\S+" .*\bthe command was stopped\b/m);
  });

  test("goes on as if nothing had been, if it wakes up within the TTL", async () => {
    await using locked = await runLocked("read line; exit 3", { args: ["--ttl", "20s", "--grace", "2s"] });
    await using freezer = Freezer.of([locked.cli.process.pid ?? 0, locked.runner, locked.pid]);
    await freezer.freeze();
    const awake = performance.now() + 8_000;
    await until(() => performance.now() > awake, { deadline: 10_000 });
    expect(await locked.isLocked()).toBe(true);
    freezer.thaw();
    locked.cli.process.stdin?.end("on\n");
    expect((await locked.cli.ended).status).toBe(3);
    expect(await locked.isLocked()).toBe(false);
  });
});
