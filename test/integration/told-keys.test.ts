import { describe, expect, test } from "vitest";
import { type LockInfo, listLocks } from "../../src/index.ts";
import { type CliResult, cli, Terminal } from "../support/cli.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { createHostileRole } from "../support/hostile-role.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// A key of bytes on a shared session, and a role that answers every question with nonsense. A listener of the driver that threw would end
// the process that asks, or the one that holds the lock.

interface Held extends AsyncDisposable {
  readonly text: string;
  /** The text that shows the key of bytes. */
  readonly bytes: string;
}

/** Two locks on a shared session, whose keys are told in spite of a hostile role. */
async function hold(): Promise<Held> {
  const hostile = await createHostileRole();
  const pool = createPool();
  const locker = createLocker({ pool, sessions: "shared" });
  const text = uniqueKey();
  const { key: bytes } = await locker.acquire(Buffer.concat([Buffer.from(text), Buffer.of(0xff, 0x41)]));
  await locker.acquire(text);
  await until(
    async () => (await listLocks(pool, { keysWithin: "1s" })).every(({ key }) => key !== undefined),
    { deadline: 15_000 },
  );
  return {
    text,
    bytes,
    [Symbol.asyncDispose]: async () => {
      await locker.close();
      await hostile[Symbol.asyncDispose]();
    },
  };
}

/** Runs `pg-locker` until its output has a text: on a busy machine, holders may tell too late. */
async function shown(args: readonly string[], text: string): Promise<CliResult> {
  return await until(
    async () => {
      const result = await cli(args, onDatabase());
      return (result.status !== 0 || result.stdout.includes(text)) && result;
    },
    { deadline: 20_000 },
  );
}

describe("with a key of bytes and a role that answers nonsense", () => {
  test("listLocks shows every key", async () => {
    await using held = await hold();
    const locks = await listLocks(createPool(), { keysWithin: "5s" });
    expect(locks.map(({ key }) => key).toSorted()).toEqual([held.text, held.bytes].toSorted());
    expect(locks.map(({ namespace, claimedKey }) => [namespace, claimedKey])).toEqual([
      [0, undefined],
      [0, undefined],
    ]);
  });

  test("ls shows every key, the bytes escaped", async () => {
    await using held = await hold();
    const { status, stdout, stderr } = await shown(["ls"], `${held.text}\\udcffA`);
    expect([status, stderr]).toEqual([0, ""]);
    const keys = stdout.split("\n").flatMap((line) => / (\S+)$/.exec(line)?.[1] ?? []);
    expect(keys).toEqual(expect.arrayContaining([held.text, `${held.text}\\udcffA`]));
  });

  test("ls shows a claimed key in brackets, also between two questions to its holder", async () => {
    await using _held = await hold();
    await using locker = createLocker({ sessions: "shared", lockId: () => 42n });
    const { key } = await locker.acquire(uniqueKey());
    await shown(["ls"], `[${key}]`);
    await using terminal = Terminal.cli(["ls", "--watch=100ms"], { ...onDatabase(), columns: 200 });
    await terminal.shows(`[${key}]`);
    const since = terminal.output.lastIndexOf(`[${key}]`);
    const screens = await until(
      () => {
        const drawn = terminal.output.slice(since).split("\x1b[2J").slice(1, -1);
        return drawn.length > 5 && drawn;
      },
      { deadline: 15_000 },
    );
    expect(screens.filter((screen) => !screen.includes(`[${key}]`))).toEqual([]);
  });

  test("ls --json has every key", async () => {
    await using held = await hold();
    const { status, stdout } = await shown(["ls", "--json"], `"${held.text}"`);
    expect(status).toBe(0);
    const locks = JSON.parse(stdout) as LockInfo[];
    expect(locks.map(({ key }) => key).toSorted()).toEqual([held.text, held.bytes].toSorted());
  });

  test("ls --watch shows every key, until it is told to end", async () => {
    await using held = await hold();
    await using terminal = Terminal.cli(["ls", "--watch=100ms"], { ...onDatabase(), columns: 200 });
    await terminal.shows(`${held.text}\\udcffA`);
    const drawn = terminal.output.length;
    await until(() => terminal.output.length > 2 * drawn, { deadline: 15_000 });
    expect(terminal.screen).toContain(held.text);
    terminal.type("\x03");
    expect(await terminal.ended).toMatchObject({ status: 130 });
  });

  test("who finds the lock of a text, and nobody for another", async () => {
    await using held = await hold();
    expect(await cli(["who", held.text], onDatabase())).toMatchObject({ status: 0, stderr: "" });
    expect(await cli(["who", uniqueKey()], onDatabase())).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(/\nNobody holds it, and nobody waits for it\n$/),
      stderr: "",
    });
  });

  test("break ends the session, and finds nobody for another key", async () => {
    await using held = await hold();
    expect(await cli(["break", uniqueKey(), "--yes"], onDatabase())).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/\nNobody holds it\n$/),
    });
    const ended = await cli(["break", held.text, "--yes"], onDatabase());
    expect(ended).toMatchObject({ status: 0, stdout: expect.stringMatching(/\nEnded: \d+\n$/) });
  });

  test("doctor finds one way to make lock ids", async () => {
    await using _held = await hold();
    const { status, stdout } = await shown(["doctor"], "the default");
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ok {4}lock-ids .*: by `lockId`, the default$/m);
  });
});
