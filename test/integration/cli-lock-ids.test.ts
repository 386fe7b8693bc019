import { describe, expect, test } from "vitest";
import { type LockInfo, sha256LockId } from "../../src/index.ts";
import { cli } from "../support/cli.ts";
import { holdersOf, uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// A key has a lock id for each function that makes one. The command line can compute two of them.

const bySha = ["--lock-ids", "sha256"];

describe.each(sessionModes)("the lock of a locker with sha256LockId and %s sessions", (sessions) => {
  test("is found by who with --lock-ids sha256, and named without", async () => {
    await using locker = createLocker({ sessions, namespace: 7, lockId: sha256LockId });
    const { key, id } = await locker.acquire(uniqueKey());
    const who = ["who", key, "--namespace", "7"];
    const found = await cli([...who, ...bySha], onDatabase());
    expect(found).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(new RegExp(` ${id} +${key}\n$`)),
    });
    const none = await cli(who, onDatabase());
    expect(none).toMatchObject({ status: 1, stderr: "" });
    expect(none.stdout).toContain(
      "\nNobody holds it, and nobody waits for it\n\nThe key is in use with another lock id, by lockers for which --lock-ids sha256 is right:\n",
    );
    expect(none.stdout).toMatch(new RegExp(`^held .* ${id} +${key}\n$`, "m"));
    const elsewhere = await cli(["who", key], onDatabase());
    expect(elsewhere.stdout).toMatch(/nobody waits for it\n$/);
  });

  test("isn't in the JSON of who without --lock-ids, but on standard error", async () => {
    await using locker = createLocker({ sessions, lockId: sha256LockId });
    const { key } = await locker.acquire(uniqueKey());
    expect(await cli(["who", key, "--json"], onDatabase())).toMatchObject({
      status: 1,
      stdout: "[]\n",
      stderr: expect.stringMatching(
        /^pg-locker: The key is in use with another lock id, .*--lock-ids sha256.*\n$/,
      ),
    });
    const { stdout } = await cli(["who", key, "--json", ...bySha], onDatabase());
    expect(JSON.parse(stdout) as LockInfo[]).toMatchObject([{ key, state: "held" }]);
  });

  test("is broken by break with --lock-ids sha256, and left alone without", async () => {
    await using locker = createLocker({ sessions, lockId: sha256LockId });
    const lock = await locker.acquire(uniqueKey());
    const left = await cli(["break", lock.key, "--yes"], onDatabase());
    expect(left).toMatchObject({ status: 0, stdout: expect.stringContaining("--lock-ids sha256 is right") });
    expect(await holdersOf(lock.id)).toHaveLength(1);
    const broken = await cli(["break", lock.key, "--yes", ...bySha], onDatabase());
    expect(broken).toMatchObject({ status: 0, stdout: expect.stringMatching(/\nEnded: \d+\n$/) });
    await until(() => lock.signal.aborted);
  });

  test("keeps a run with --lock-ids sha256 out, and no other", async () => {
    await using locker = createLocker({ sessions, lockId: sha256LockId });
    const lock = await locker.acquire(uniqueKey());
    const [pid] = await holdersOf(lock.id);
    const run = (...args: string[]) =>
      cli(["run", lock.key, ...args, "--", "sh", "-c", "echo $PG_LOCKER_ID"], onDatabase());
    expect(await run(...bySha)).toMatchObject({
      status: 75,
      stdout: "",
      stderr: expect.stringContaining(`(pid ${pid})`),
    });
    expect(await run()).toMatchObject({ status: 0, stdout: expect.not.stringContaining(`${lock.id}`) });
    await lock.release();
    expect(await run(...bySha)).toMatchObject({ status: 0, stdout: `${lock.id}\n` });
  });
});

test("id computes the lock id of sha256LockId with --lock-ids sha256", async () => {
  const { stdout } = await cli(["id", "nightly", "--namespace", "7", ...bySha]);
  expect(stdout).toContain(`id        ${sha256LockId(7, "nightly")}\n`);
  expect((await cli(["id", "nightly", "--lock-ids=fnv"])).stdout).toBe((await cli(["id", "nightly"])).stdout);
});

test("who names a semaphore of the key, and a lockId of a locker's own", async () => {
  const key = uniqueKey();
  await using locker = createLocker({ sessions: "dedicated" });
  await using own = createLocker({ sessions: "shared", lockId: () => 42n });
  await using permit = await locker.semaphore(key, 3).acquire();
  const { stdout } = await cli(["who", key], onDatabase());
  expect(stdout).toMatch(/another lock id, by a semaphore:$/m);
  await using _lock = await own.acquire(key);
  const both = await until(
    async () => {
      const seen = await cli(["who", key], onDatabase());
      return seen.stdout.includes("of a locker's own") && seen;
    },
    { deadline: 20_000 },
  );
  expect(both.status).toBe(1);
  const ids = [...both.stdout.matchAll(/^held .* (-?\d+) +\S+$/gm)].map(([, id]) => id);
  expect(ids.toSorted()).toEqual([`${permit.id}`, "42"].toSorted());
});

test.each([
  ["an unknown value", ["--lock-ids", "md5"], 'Expected --lock-ids to be fnv or sha256, got "md5"'],
  ["no value", ["--lock-ids"], "--lock-ids needs a value"],
  ["two values", [...bySha, "--lock-ids", "fnv"], "--lock-ids is given twice, with two values"],
])("--lock-ids is refused with %s", async (_, args, sentence) => {
  for (const command of ["id", "who", "break", "run"]) {
    const rest = command === "run" ? ["--", "true"] : [];
    const { status, stderr } = await cli([command, "k", ...args, ...rest], onDatabase());
    expect([status, stderr]).toEqual([64, `pg-locker: ${sentence}\n`]);
  }
});

test("ls takes no --lock-ids: it asks for no key", async () => {
  expect(await cli(["ls", ...bySha], onDatabase())).toMatchObject({ status: 64 });
});
