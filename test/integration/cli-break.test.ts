import { describe, expect, test } from "vitest";
import { LockLostError, lockId } from "../../src/index.ts";
import { cli, Terminal } from "../support/cli.ts";
import { advisoryLocks, connect, createRole, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { idle, onDatabase, runLocked } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

describe("pg-locker break --yes", () => {
  test.each(["dedicated", "shared"] as const)(
    "shows the holder and ends its session, and the holder hears of it: %s",
    async (sessions) => {
      await using locker = createLocker({ sessions, namespace: 7 });
      const key = uniqueKey();
      const lock = await locker.acquire(key);
      const [pid] = await holdersOf(lock.id);
      const { status, stdout, stderr } = await cli(["break", key, "--namespace=7", "--yes"], onDatabase());
      expect([status, stderr]).toEqual([0, ""]);
      expect(stdout).toMatch(
        new RegExp(`^Database .*\nSTATE .*\nheld +exclusive +${pid} .*\nEnded: ${pid}\n$`),
      );
      await until(() => lock.signal.aborted);
      expect(lock.signal.reason).toBeInstanceOf(LockLostError);
      expect(await advisoryLocks()).toEqual([]);
    },
  );

  test("frees the lock for a waiter, and says who holds it now", async () => {
    await using holder = createLocker({ sessions: "dedicated" });
    await using waiter = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    const lock = await holder.acquire(key);
    const waits = waiter.acquire(key, { wait: true });
    await until(async () => (await advisoryLocks()).length === 2);
    const [pid] = await holdersOf(lock.id);
    const { status, stdout } = await cli(["break", key, "--yes"], onDatabase());
    expect(status).toBe(0);
    expect(stdout).toContain(`Ended: ${pid}\n`);
    await using had = await waits;
    expect(had.held).toBe(true);
    expect(lock.held).toBe(false);
  });

  test("stops the command of a `pg-locker run`, whose status is 79", async () => {
    await using locked = await runLocked(idle);
    expect((await cli(["break", locked.key, "--yes"], onDatabase())).status).toBe(0);
    expect(await locked.cli.ended).toMatchObject({ status: 79 });
    expect(locked.lives).toBe(false);
  });

  test("ends all holders of a shared lock, and nobody else", async () => {
    const [one, other, bystander] = [await connect(), await connect(), await connect()];
    const key = uniqueKey();
    for (const client of [one, other])
      await client.query("select pg_advisory_lock_shared($1)", [lockId(0, key)]);
    await bystander.query("select pg_advisory_lock_shared($1)", [lockId(1, key)]);
    const { status, stdout } = await cli(["break", key, "--yes"], onDatabase());
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Ended: \d+, \d+$/m);
    expect((await advisoryLocks()).map(({ pid }) => pid)).toEqual([bystander.processID]);
  });

  test("does nothing if nobody holds the lock, which is no error", async () => {
    const key = uniqueKey();
    await using other = createLocker({ sessions: "dedicated", namespace: 7 });
    await using lock = await other.acquire(key);
    expect(await cli(["break", key], onDatabase())).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^Database .*\nNobody holds it\n$/),
    });
    expect(lock.held).toBe(true);
  });

  test("by a role that isn't allowed to says who is, exits with 70, and ends nothing", async () => {
    await using role = await createRole();
    await using owner = await createRole();
    const holder = await connect({ connectionString: owner.url });
    const key = uniqueKey();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key)]);
    const env = { DATABASE_URL: role.url };
    const refused = await cli(["break", key, "--yes"], onDatabase(env));
    expect(refused.status).toBe(70);
    expect(refused.stderr).toMatch(
      new RegExp(`^pg-locker: This role may not end a session of ${owner.name}: .*pg_signal_backend.*\n$`),
    );
    expect(refused.stdout).not.toContain("Ended");
    expect(refused.stdout).toContain("GRANT pg_read_all_stats");
    expect(await holdersOf(lockId(0, key))).toEqual([holder.processID]);
    await onServer(`grant pg_signal_backend to ${role.name}`);
    expect((await cli(["break", key, "--yes"], onDatabase(env))).status).toBe(0);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
  });

  test("says so if the session does not end, and exits with 70", async () => {
    await using server = await startServer();
    const holder = await connect({ connectionString: server.url });
    const key = uniqueKey();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key)]);
    const pid = holder.processID;
    process.kill(pid, "SIGSTOP");
    try {
      const { status, stderr } = await cli(["break", key, "--yes", "--url", server.url], onDatabase());
      expect(status).toBe(70);
      expect(stderr).toBe(
        `pg-locker: Session ${pid} still has the lock, 5 s after it was told to end: it does not react\n`,
      );
    } finally {
      process.kill(pid, "SIGCONT");
    }
  });
});

describe("without a terminal, and without --yes,", () => {
  test("nothing is done, and the status is that of wrong usage", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    const { status, stdout, stderr } = await cli(["break", key], onDatabase());
    const [pid] = await holdersOf(lock.id);
    expect(status).toBe(64);
    expect(stdout).toContain(key);
    expect(stderr).toBe(`pg-locker: End session ${pid}? There is no terminal to ask on: use --yes\n`);
    expect(lock.held).toBe(true);
  });
});

describe("in a terminal, break asks", () => {
  const what = /End session \d+\? \[y\/N\] /;

  test.each(["y", "yes", "Y"])("and ends the session after %s", async (answer) => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    await using terminal = Terminal.cli(["break", key], onDatabase());
    await terminal.shows(what);
    expect(lock.held).toBe(true);
    terminal.type(`${answer}\r`);
    expect((await terminal.ended).status).toBe(0);
    expect(terminal.output).toMatch(/Ended: \d+/);
    await until(() => lock.signal.aborted);
  });

  test.each([
    ["n", "n\r", 1],
    ["Enter alone", "\r", 1],
    ["anything else", "yesterday\r", 1],
    ["Ctrl-D", "\x04", 1],
    ["Ctrl-C", "\x03", 130],
  ])("and does nothing after %s", async (_, keys, status) => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    await using terminal = Terminal.cli(["break", key], onDatabase());
    await terminal.shows(what);
    terminal.type(keys);
    expect((await terminal.ended).status).toBe(status);
    expect(terminal.output.includes("\r\nNothing was done\r\n")).toBe(status === 1);
    expect(terminal.output).not.toMatch(/Ended|Warning|at .*:\d+/);
    // Even without an answer, the line of the question is ended.
    expect(terminal.output.endsWith("\r\n")).toBe(true);
    expect(await holdersOf(lock.id)).toHaveLength(1);
    expect(lock.held).toBe(true);
  });

  test("says how many other locks go with the session", async () => {
    await using locker = createLocker({ sessions: "shared" });
    const [key, another] = [uniqueKey(), uniqueKey()];
    await using lock = await locker.acquire(key);
    await using _other = await locker.acquire(another);
    await using terminal = Terminal.cli(["break", key], onDatabase());
    await terminal.shows(/End session \d+, and with it 1 other lock\? \[y\/N\] /);
    terminal.type("n\r");
    await terminal.ended;
    expect(lock.held).toBe(true);
  });

  test("and ends no session that released the lock since, nor its new holder", async () => {
    await using before = createLocker({ sessions: "dedicated" });
    await using after = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    const lock = await before.acquire(key);
    await using terminal = Terminal.cli(["break", key], onDatabase());
    await terminal.shows(what);
    await lock.release();
    await using other = await before.acquire(uniqueKey());
    await using now = await after.acquire(key);
    const [pid] = await holdersOf(now.id);
    terminal.type("y\r");
    expect((await terminal.ended).status).toBe(0);
    expect(terminal.output).toContain("It was released in the meantime");
    expect(terminal.output).toContain(`Session ${pid} has it now`);
    expect(await holdersOf(now.id)).toEqual([pid]);
    expect([other.held, now.held]).toEqual([true, true]);
  });

  test("on standard error if standard output is not a terminal", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    const { env } = onDatabase();
    await using terminal = Terminal.start("sh", ["-c", `$PG_LOCKER break ${key} >/dev/null`], { env });
    await terminal.shows(what);
    terminal.type("n\r");
    expect((await terminal.ended).status).toBe(1);
    expect(lock.held).toBe(true);
  });
});
