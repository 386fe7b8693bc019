import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { CliChild, cli } from "../support/cli.ts";
import { advisoryLocks, connect, databaseUrl, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { idle, type Locked, onDatabase, runLocked } from "../support/locked-command.ts";
import { startServer } from "../support/start-server.ts";
import { lives, taggedProcesses } from "../support/tagged-processes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

/** A script that says when it gets SIGTERM, and goes on. */
const stubborn = `trap 'echo got TERM' TERM; ${idle}`;
/** A script that ignores SIGTERM. */
const deaf = `trap '' TERM; ${idle}`;

const patient = { deadline: 15_000 };

/** Ends the session that holds a lock, as an administrator does. */
async function terminateHolder(key: string): Promise<void> {
  const [pid] = await holdersOf(lockId(0, key));
  await onServer("select pg_terminate_backend($1)", [pid]);
}

/**
 * Waits until the command is dead, and then checks in the server that the lock is still held: so nobody else can have held it while the
 * command lived. Then waits until it is free.
 */
async function diesBeforeItsLock(locked: Locked): Promise<void> {
  await until(() => !locked.lives, { deadline: 30_000 });
  expect(await locked.isLocked()).toBe(true);
  await until(async () => !(await locked.isLocked()), { deadline: 30_000 });
}

async function expectKilledWithItsRunner(locked: Locked): Promise<void> {
  const { status, stderr } = await locked.cli.ended;
  expect([status, stderr]).toEqual([
    70,
    "pg-locker: The process that ran the command was killed, and the command with it\n",
  ]);
  expect(locked.lives).toBe(false);
  expect(await locked.isLocked()).toBe(false);
}

describe("SIGKILL of pg-locker", () => {
  test("ends the command, and the lock stays until it has ended", async () => {
    await using locked = await runLocked(deaf, { args: ["--ttl", "14s", "--grace", "5s"] });
    const holders = await holdersOf(lockId(0, locked.key));
    locked.cli.signal("SIGKILL");
    await once(locked.cli.process, "exit");
    const second = await cli(["run", locked.key, "--", "echo", "run"], onDatabase());
    expect([second.status, second.stdout]).toEqual([75, ""]);
    expect(await holdersOf(lockId(0, locked.key))).toEqual(holders);
    expect(locked.lives).toBe(true);
    await until(() => !locked.lives, patient);
    await until(async () => !(await locked.isLocked()), patient);
    expect(await cli(["run", locked.key, "--", "echo", "run"], onDatabase())).toMatchObject({ status: 0 });
  });

  test("sends the command SIGTERM, and frees the lock as soon as it has ended", async () => {
    // Long before the server would free the lock.
    const args = ["--ttl", "10m"];
    await using locked = await runLocked(`trap 'echo got TERM; exit' TERM; ${idle}`, { args });
    locked.cli.signal("SIGKILL");
    await locked.cli.says("got TERM\n");
    await until(async () => !(await locked.isLocked()), patient);
    expect(locked.lives).toBe(false);
  });

  test("ends what the command has started, too", async () => {
    const deafChild = `trap '' TERM; echo deaf; ${idle}`;
    await using locked = await runLocked(`sh -c "${deafChild}" & echo "child $!"; wait`, {
      args: ["--grace", "2s"],
    });
    await locked.cli.says(/child \d+\n/);
    await locked.cli.says("deaf\n");
    const child = Number(/child (\d+)/.exec(locked.cli.stdout)?.[1]);
    locked.cli.signal("SIGKILL");
    await until(() => !locked.lives, patient);
    // The lock is held until the last of its processes has ended.
    const isLocked = await locked.isLocked();
    expect(lives(child)).toBe(true);
    expect(isLocked).toBe(true);
    await until(async () => !(await locked.isLocked()), patient);
    expect(lives(child)).toBe(false);
  });
});

test("SIGKILL of pg-locker while it waits leaves nothing behind", async () => {
  await using locked = await runLocked(idle);
  await using waiter = CliChild.start(["run", locked.key, "--wait", "--", "echo", "run"], onDatabase());
  await until(async () => (await advisoryLocks()).some(({ granted }) => !granted), patient);
  waiter.signal("SIGKILL");
  expect((await waiter.ended).stdout).toBe("");
  // Nothing is left except the other holder.
  const others = taggedProcesses().filter(({ command }) => command.includes("runner.js"));
  await until(() => others.every(({ pid }) => pid === locked.runner || !lives(pid)), patient);
  locked.cli.signal("SIGTERM");
  await locked.cli.ended;
});

test("SIGKILL of the process that runs the command ends it, frees the lock, exits 70", async () => {
  await using locked = await runLocked(deaf, { args: ["--ttl", "10m"] });
  process.kill(locked.runner, "SIGKILL");
  await expectKilledWithItsRunner(locked);
});

test("SIGKILL of that process before it has told of the command ends the command, too", async () => {
  const preload = `data:text/javascript,${encodeURIComponent(`
    if (process.argv[1]?.endsWith("runner.js")) {
      const send = process.send;
      process.send = function (message, ...others) {
        if (message.is === "started") process.kill(process.pid, "SIGKILL");
        return send.call(process, message, ...others);
      };
    }`)}`;
  const env = { NODE_OPTIONS: `--import=${preload}` };
  await using locked = await runLocked(deaf, { args: ["--ttl", "10m"], env });
  await expectKilledWithItsRunner(locked);
});

test("SIGKILL of both frees the lock at once, and the command runs on", async () => {
  await using locked = await runLocked(idle, { args: ["--ttl", "10m"] });
  const both = [locked.cli.process.pid ?? 0, locked.runner];
  // Neither can notice the other's end.
  for (const pid of both) process.kill(pid, "SIGSTOP");
  for (const pid of both) process.kill(pid, "SIGKILL");
  await until(async () => !(await locked.isLocked()), patient);
  expect(locked.lives).toBe(true);
  process.kill(-locked.pid, "SIGKILL");
  await until(() => !locked.lives, patient);
  expect((await locked.cli.ended).signal).toBe("SIGKILL");
});

test("SIGSTOP of pg-locker stops the command before the server frees the lock: 79", async () => {
  await using locked = await runLocked(stubborn, { args: ["--ttl", "8s", "--grace", "2s"] });
  locked.cli.signal("SIGSTOP");
  await diesBeforeItsLock(locked);
  expect(locked.cli.stdout).toContain("got TERM\n");
  locked.cli.signal("SIGCONT");
  const { status, stderr } = await locked.cli.ended;
  expect(status).toBe(79);
  expect(stderr).toContain(
    `pg-locker: Lock "${locked.key}" could not be refreshed in time: the command was stopped before somebody else could get the lock\n`,
  );
});

test("a cut network: the command is dead before the server frees the lock, and 79", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locked = await runLocked(stubborn, {
    args: ["--ttl", "8s", "--grace", "2s"],
    env: { DATABASE_URL: proxy.url },
  });
  proxy.freeze();
  await diesBeforeItsLock(locked);
  expect(locked.cli.stdout).toContain("got TERM\n");
  const { status, stderr } = await locked.cli.ended;
  expect(status).toBe(79);
  expect(stderr).toMatch(/could not be refreshed in time|no answer within \d+ ms; the command was stopped/);
});

test("if answers stop coming, the lock is kept until the command has ended", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locked = await runLocked(stubborn, {
    args: ["--ttl", "24s", "--grace", "3s"],
    env: { DATABASE_URL: proxy.url },
  });
  // Data from pg-locker still arrives, including the end of its connection.
  proxy.freeze({ direction: "toClient" });
  await locked.cli.says("got TERM\n");
  // It is free as soon as the command is dead: too quickly to check both in turn.
  await until(async () => !(await locked.isLocked()), { deadline: 30_000 });
  expect(locked.lives).toBe(false);
  const { status, stderr } = await locked.cli.ended;
  expect([status, stderr]).toEqual([
    79,
    expect.stringMatching(/was lost: .*no answer within 5000 ms; the command was stopped\n$/),
  ]);
}, 40_000);

test("an answer that is late, but in time, is no loss", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locked = await runLocked("read line; exit 3", {
    args: ["--ttl", "12s", "--grace", "1s"],
    env: { DATABASE_URL: proxy.url },
  });
  const backend = await holdersOf(lockId(0, locked.key));
  const nextRefresh = async (): Promise<void> => {
    const last = async () => {
      const [row] = await onServer<{ at: string }>(
        "select query_start::text as at from pg_stat_activity where pid = $1",
        backend,
      );
      return row?.at;
    };
    const before = await last();
    await until(async () => (await last()) !== before, patient);
  };
  proxy.freeze({ direction: "toClient" });
  await nextRefresh();
  proxy.thaw();
  await nextRefresh();
  locked.cli.process.stdin?.end("on\n");
  expect((await locked.cli.ended).status).toBe(3);
});

describe("a session that somebody ends", () => {
  test("means a lost lock: the command gets SIGTERM, and 79 whatever its status", async () => {
    await using locked = await runLocked(`trap 'echo got TERM; exit 0' TERM; ${idle}`);
    await terminateHolder(locked.key);
    const { status, stdout, stderr } = await locked.cli.ended;
    expect([status, stdout]).toEqual([79, expect.stringContaining("got TERM\n")]);
    expect(stderr).toContain(
      `pg-locker: Lock "${locked.key}" was lost: terminating connection due to administrator command; the command was stopped\n`,
    );
  });

  test("means SIGKILL for a command that ignores SIGTERM, and all that it has started", async () => {
    await using locked = await runLocked(`trap '' TERM; sh -c '${idle}' & echo "child $!"; wait`);
    await locked.cli.says(/child \d+\n/);
    const child = Number(/child (\d+)/.exec(locked.cli.stdout)?.[1]);
    await terminateHolder(locked.key);
    expect((await locked.cli.ended).status).toBe(79);
    expect([locked.lives, lives(child)]).toEqual([false, false]);
  });
});

test("a server that stops while the command runs loses the lock: SIGTERM, and 79", async () => {
  await using server = await startServer();
  await using locked = await runLocked(`trap 'echo got TERM; exit' TERM; ${idle}`, {
    env: { DATABASE_URL: server.url },
  });
  await server.stop({ mode: "fast" });
  const { status, stdout, stderr } = await locked.cli.ended;
  expect([status, stdout]).toEqual([79, expect.stringContaining("got TERM\n")]);
  expect(stderr).toMatch(
    /pg-locker: Lock "\S+" was lost: terminating connection .*; the command was stopped\n$/,
  );
});

test("a server that crashes while the command runs loses the lock: SIGTERM, and 79", async () => {
  await using server = await startServer();
  await using locked = await runLocked(`trap 'echo got TERM; exit' TERM; ${idle}`, {
    env: { DATABASE_URL: server.url },
  });
  await server.kill();
  const { status, stdout } = await locked.cli.ended;
  expect([status, stdout]).toEqual([79, expect.stringContaining("got TERM\n")]);
});

test("a primary that becomes a standby while the command runs loses the lock: 79", async () => {
  await using primary = await startServer();
  await using standby = await primary.standby();
  await using locked = await runLocked(`trap 'echo got TERM; exit' TERM; ${idle}`, {
    env: { DATABASE_URL: primary.url },
  });
  // A planned switchover: the primary stops, its standby takes over, and the old primary comes back as a standby of that.
  const database = await connect({ connectionString: primary.url });
  await database.query(
    `alter system set primary_conninfo = 'host=127.0.0.1 port=${standby.port} user=postgres'`,
  );
  await database.end();
  await primary.stop({ mode: "fast" });
  await standby.promote();
  await writeFile(join(primary.dataDirectory, "standby.signal"), "", { mode: 0o666 });
  await primary.resume();
  const { status, stdout, stderr } = await locked.cli.ended;
  expect([status, stdout]).toEqual([79, expect.stringContaining("got TERM\n")]);
  expect(stderr).toMatch(/pg-locker: Lock "\S+" was lost: .*; the command was stopped\n$/);
  const run = ({ url }: { url: string }) =>
    cli(["run", locked.key, "--", "echo", "run"], onDatabase({ DATABASE_URL: url }));
  expect(await run(primary)).toMatchObject({
    status: 69,
    stdout: "",
    stderr: expect.stringContaining("standby") as string,
  });
  expect(await run(standby)).toMatchObject({ status: 0, stdout: "run\n" });
}, 60_000);

test.each([[[]], [["--wait=1s"]]])(
  "without a server the status is 69, and nothing is run: %j",
  async (wait) => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await proxy.refuse();
    // -E is about a lock that somebody else holds, not about this.
    const args = ["run", uniqueKey(), ...wait, "-E", "0", "--", "echo", "run"];
    const { status, stdout, stderr } = await cli(args, onDatabase({ DATABASE_URL: proxy.url }));
    expect([status, stdout]).toEqual([69, ""]);
    expect(stderr).toContain("ECONNREFUSED");
  },
);
test("a server just started exits 69 with a recovery grace, and a wait outlasts it", async () => {
  await using server = await startServer();
  const database = onDatabase({ DATABASE_URL: server.url });
  const refused = await cli(["run", "k", "--recovery-grace", "1h", "-E", "0", "--", "echo", "run"], database);
  expect([refused.status, refused.stdout]).toEqual([69, ""]);
  expect(refused.stderr).toMatch(/^pg-locker: Lock "k" not acquired: .* for another (59m|1h0m)[\d.]+s\b/m);
  const ran = await cli(["run", "k", "--recovery-grace", "2s", "--wait", "--", "echo", "run"], database);
  expect([ran.status, ran.stdout]).toEqual([0, "run\n"]);
});
