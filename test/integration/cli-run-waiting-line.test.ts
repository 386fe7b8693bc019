import { expect, test } from "vitest";
import { CliChild, cli, Terminal } from "../support/cli.ts";
import { advisoryLocks, uniqueKey } from "../support/database.ts";
import { idle, onDatabase, runLocked } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { UserState } from "../support/own-server.ts";
import { until } from "../support/until.ts";

test("a run that waits in a terminal says once who holds the lock, and since when", async () => {
  await using locker = createLocker({ sessions: "dedicated" });
  const key = uniqueKey();
  const lock = await locker.acquire(key);
  await using terminal = Terminal.cli(["run", key, "--wait", "--", "echo", "run"], onDatabase());
  await terminal.shows(
    /pg-locker: waiting for "key:\w+", held by \w+( on \S+)? \(pid \d+\), for \d+s at most\r?\n/,
  );
  await lock.release();
  expect((await terminal.ended).status).toBe(0);
  expect(terminal.output.match(/waiting for/g)).toHaveLength(1);
});

test("a run that waits on the user's own PostgreSQL says only once that it uses it", async () => {
  await using state = await UserState.create();
  await using holder = await state.hold();
  await using terminal = Terminal.cli(["run", "k", "--wait", "--", "echo", "run"], state.options());
  await terminal.shows(/pg-locker: waiting for "k", held by/);
  holder.process.stdin?.end();
  expect((await terminal.ended).status).toBe(0);
  expect(terminal.output.match(/no database is named/g)).toHaveLength(1);
});

test("a run that gets the lock at once says nothing", async () => {
  await using terminal = Terminal.cli(["run", uniqueKey(), "--wait", "--", "echo", "run"], onDatabase());
  expect((await terminal.ended).status).toBe(0);
  expect(terminal.output).toBe("run\r\n");
});

test("a run that waits without a terminal says nothing, because cron would mail it", async () => {
  await using locker = createLocker({ sessions: "dedicated" });
  const key = uniqueKey();
  await using _lock = await locker.acquire(key);
  await using child = CliChild.start(["run", key, "--wait=3s", "-E", "3", "--", "echo", "run"], onDatabase());
  await until(async () => (await advisoryLocks()).some(({ granted }) => !granted), {
    deadline: 15_000,
  });
  const { stdout, stderr } = await child.ended;
  expect([stdout, stderr.split("\n")]).toEqual([
    "",
    [expect.stringContaining("not acquired after 3s: it is held by"), ""],
  ]);
});

test("a run that is refused says who holds the lock, with the holder's description", async () => {
  await using locked = await runLocked(idle, { args: ["--name", "Nightly", "--detail", "OPS-4711"] });
  const { key } = locked;
  for (const [args, status] of [
    [[], 75],
    [["--wait=100ms"], 124],
    [["-E", "9"], 9],
  ] as const) {
    const told = await cli(["run", key, ...args, "--", "echo", "run"], onDatabase());
    expect([told.status, told.stdout]).toEqual([status, ""]);
    expect(told.stderr).toMatch(
      /: it is held by .*\(pid \d+\), for \d+s at most; it says: Nightly: OPS-4711\n$/,
    );
  }
});

test("a run within a run of the same key says so", async () => {
  const key = uniqueKey();
  const inner = ["run", key, "-w", "0.1", "--", "echo", "inner"];
  const nested = ["run", key, "--", process.execPath, "dist/cli/main.js", ...inner];
  const { status, stdout, stderr } = await cli(nested, onDatabase());
  expect([status, stdout]).toEqual([124, ""]);
  expect(stderr).toMatch(/^pg-locker: .*; this is a run within a run of the same key\n$/);
});

test("nested runs, of several keys or all shared, each get their lock", async () => {
  const [one, other] = [uniqueKey(), uniqueKey()];
  const program = [process.execPath, "dist/cli/main.js"];
  const script = 'echo "$PG_LOCKER_KEY"';
  const keys = await cli(
    ["run", one, "--", ...program, "run", other, "--", "sh", "-c", script],
    onDatabase(),
  );
  expect(keys).toMatchObject({ status: 0, stdout: `${other}\n`, stderr: "" });
  const shared = await cli(
    ["run", one, "-s", "--", ...program, "run", one, "-s", "--", "sh", "-c", script],
    onDatabase(),
  );
  expect(shared).toMatchObject({ status: 0, stdout: `${one}\n`, stderr: "" });
});
