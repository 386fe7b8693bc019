import { expect, test } from "vitest";
import { CliChild, Terminal } from "../support/cli.ts";
import { advisoryLocks, uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

test("whoever waits in a terminal is told for whom, since when, and once", async () => {
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

test("whoever gets the lock at once is told nothing", async () => {
  await using terminal = Terminal.cli(["run", uniqueKey(), "--wait", "--", "echo", "run"], onDatabase());
  expect((await terminal.ended).status).toBe(0);
  expect(terminal.output).toBe("run\r\n");
});

test("without a terminal nothing is said, as cron would mail it", async () => {
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
    [expect.stringContaining("still held elsewhere after 3000 ms"), ""],
  ]);
});
