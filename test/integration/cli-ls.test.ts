import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { cli, Terminal } from "../support/cli.ts";
import {
  advisoryLocks,
  connect,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const head = /^STATE +MODE +PID +USER +HOST +SESSION +ACTIVE +NAMESPACE +ID +KEY$/;
const user = new URL(databaseUrl()).username;

const { hostname, port, pathname } = new URL(databaseUrl());
/** The line that says which database was asked: the first line of every table. */
const asked = `Database ${pathname.slice(1)} on ${hostname}:${port}, as ${user} (DATABASE_URL)`;

/** Runs a command that prints nothing but its table, and returns the table without its first line. */
async function rowsOf(args: readonly string[], env = {}): Promise<string[]> {
  const { status, stdout, stderr } = await cli(args, onDatabase(env));
  expect([status, stderr]).toEqual([0, ""]);
  const [database, first, ...rows] = stdout.trimEnd().split("\n");
  expect(database).toBe(asked);
  expect(first).toMatch(head);
  return rows;
}

describe("pg-locker ls", () => {
  test("says so if there is no lock, and exits with 0", async () => {
    expect(await cli(["ls"], onDatabase())).toMatchObject({
      status: 0,
      stdout: `${asked}\nNo locks\n`,
      stderr: "",
    });
    expect((await cli(["ls", "--json"], onDatabase())).stdout).toBe("[]\n");
  });

  test("shows a holder and its waiters, in the server and in this library's processes", async () => {
    await using holder = createLocker({ sessions: "dedicated", namespace: 7 });
    await using waiter = createLocker({ sessions: "shared", namespace: 7 });
    const key = uniqueKey();
    const lock = await holder.acquire(key);
    const [pid] = await holdersOf(lock.id);
    const waits = waiter.acquire(key, { wait: true });
    const byHand = await connect({ application_name: "by hand" });
    const queued = byHand.query("select pg_advisory_lock_shared($1)", [lock.id]).catch(() => {});
    await until(async () => (await advisoryLocks()).length === 3);
    const rows = await rowsOf(["ls"]);
    expect(rows).toHaveLength(3);
    expect(rows[0]).toMatch(
      new RegExp(`^held +exclusive +${pid} +${user} +\\S+ +\\d+s +\\d+s +7 +${lock.id} +${key}$`),
    );
    const waiting = rows.slice(1).sort();
    expect(waiting[0]).toMatch(new RegExp(`^ {2}waits +\\d+s +exclusive +\\d+ .* 7 +${lock.id} +${key}$`));
    expect(waiting[1]).toMatch(
      new RegExp(`^ {2}waits \\d+s +shared +${byHand.processID} .* \\d+s active +7 +${lock.id} +${key}$`),
    );
    await onServer("select pg_terminate_backend($1)", [byHand.processID]);
    await queued;
    await lock.release();
    await using _had = await waits;
  });

  test("shows the key of a lock on a shared session, and the name of another app", async () => {
    await using locker = createLocker({ sessions: "shared", namespace: 7 });
    const key = uniqueKey();
    await using lock = await locker.acquire(key, { mode: "shared" });
    const byHand = await connect({ application_name: "cron\u001b[31m" });
    await byHand.query("select pg_advisory_lock(-42)");
    const rows = await until(
      async () => {
        const seen = await rowsOf(["ls"]);
        return seen.some((row) => row.endsWith(key)) && seen;
      },
      { deadline: 15_000 },
    );
    const [shared] = rows.filter((row) => row.includes(` ${lock.id} `));
    expect(shared).toMatch(new RegExp(`^held +shared +\\d+ .* 7 +-?\\d+ +${key}$`));
    const [other] = rows.filter((row) => row.includes(" -42 "));
    expect(other).toMatch(/^held +exclusive +\d+ .* - +-42 +\[cron.*31m\]$/);
  });

  test("shows the session's name if the holder on a shared session doesn't tell the key", async () => {
    await using locker = createLocker({ sessions: "shared", namespace: 7, tellKeys: false });
    await using _lock = await locker.acquire(uniqueKey());
    expect((await rowsOf(["ls"]))[0]).toMatch(
      /^held +exclusive +\d+ .* 7 +-?\d+ +\[pg-locker 7 \(shared\)\]$/,
    );
  });

  test("stays a table whatever characters a key has", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    await using _moving = await locker.acquire("a\u001b[2J\r\n\t\u0007\u009b");
    await using _turned = await locker.acquire("b\u202e\u200b\ufeff\u{e0041}");
    await using _long = await locker.acquire("c".repeat(10_000));
    await using _wide = await locker.acquire("d価格😀");
    const { stdout } = await cli(["ls"], onDatabase());
    const rows = stdout.trimEnd().split("\n").slice(2);
    expect(stripVTControlCharacters(stdout)).toBe(stdout);
    expect(rows.map((row) => row.replace(/^held.* (?=[a-d])/, "")).sort()).toEqual([
      "a\\u001b[2J\\u000d\\u000a\\u0009\\u0007\\u009b",
      "b\\u202e\\u200b\\ufeff\\u{e0041}",
      expect.stringMatching(/^c+…$/),
      "d価格😀",
    ]);
    expect(new Set(rows.map((row) => row.search(/[a-d][^ ]*$/))).size).toBe(1);
    // A program reads them as they are, and a person who looks at the JSON in a terminal is no worse off.
    const json = await cli(["ls", "--json"], onDatabase());
    expect(json.stdout.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    expect(JSON.parse(json.stdout).map(({ key }: { key: string }) => key)).toEqual(
      expect.arrayContaining(["a\u001b[2J\r\n\t\u0007\u009b", "b\u202e\u200b\ufeff\u{e0041}", "d価格😀"]),
    );
  });

  test("--namespace shows its own locks, and who holds what its waiters want", async () => {
    await using locker = createLocker({ sessions: "dedicated", namespace: 7 });
    await using other = createLocker({ sessions: "dedicated", namespace: 8 });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    await using _other = await other.acquire(key);
    // A holder that doesn't tell its namespace, such as one of the Go package.
    const byHand = await connect();
    const held = uniqueKey();
    await byHand.query("select pg_advisory_lock($1)", [lockId(7, held)]);
    const waits = locker.acquire(held, { wait: true });
    await until(async () => (await advisoryLocks()).length === 4);
    const rows = await rowsOf(["ls", "--namespace", "7"]);
    expect(rows.filter((row) => row.endsWith(` ${key}`))).toHaveLength(1);
    expect(rows.filter((row) => row.includes(` ${lockId(7, held)} `))).toEqual([
      expect.stringContaining(` ${byHand.processID} `),
      expect.stringMatching(/^ {2}waits/),
    ]);
    expect(rows).toHaveLength(3);
    expect((await cli(["ls", "--namespace=-1"], onDatabase())).stdout).toBe(`${asked}\nNo locks\n`);
    await byHand.end();
    await using _had = await waits;
  });

  test("prints an array with --json, in which every lock has every field", async () => {
    await using locker = createLocker({ sessions: "dedicated", namespace: 7 });
    const key = uniqueKey();
    await using lock = await locker.acquire(key, { mode: "shared" });
    const byHand = await connect();
    await byHand.query("select pg_advisory_lock(9223372036854775807)");
    const { status, stdout } = await cli(["ls", "--json"], onDatabase());
    expect(status).toBe(0);
    const locks = JSON.parse(stdout) as Record<string, unknown>[];
    expect(locks.find(({ id }) => id === `${lock.id}`)).toEqual({
      id: `${lock.id}`,
      key,
      claimedKey: null,
      keyStart: null,
      namespace: 7,
      mode: "shared",
      state: "held",
      waitingSince: null,
      pid: expect.any(Number) as number,
      preparedTransaction: null,
      applicationName: `pg-locker 7 ${key}`,
      user,
      host: expect.any(String) as string,
      sessionState: "idle",
      sessionSince: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) as string,
      activeAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) as string,
      description: null,
      isHidden: false,
    });
    const other = locks.find(({ id }) => id === "9223372036854775807");
    expect(other).toMatchObject({ key: null, namespace: null, pid: byHand.processID });
    expect(Object.keys(other ?? {}).sort()).toEqual(Object.keys(locks[0] ?? {}).sort());
  });

  test("says to a role without privileges what is hidden, and which grant would show it", async () => {
    await using role = await createRole();
    await using locker = createLocker({ sessions: "dedicated", namespace: 7 });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    const env = { DATABASE_URL: role.url };
    const { status, stdout } = await cli(["ls"], onDatabase(env));
    expect(status).toBe(0);
    expect(stdout).toMatch(
      new RegExp(`^held +exclusive +\\d+ +${user} +\\? +\\? +\\? +7 +${lock.id} +${key}$`, "m"),
    );
    expect(stdout).toContain('"?" is what PostgreSQL hides from this role');
    expect(stdout).toContain("GRANT pg_read_all_stats");
    expect((await cli(["who", key, "--namespace=7"], onDatabase(env))).stdout).toContain("GRANT pg_read_all");
    await onServer(`grant pg_read_all_stats to ${role.name}`);
    const shown = (await cli(["ls"], onDatabase(env))).stdout;
    expect(shown).not.toContain("?");
    expect(shown).not.toContain("GRANT");
  });

  test("prints colours only in a terminal that has them, and not with NO_COLOR", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    const outputOf = async (env = {}): Promise<string> => {
      await using terminal = Terminal.cli(["ls"], onDatabase(env));
      expect((await terminal.ended).status).toBe(0);
      expect(terminal.output).toContain(key);
      return terminal.output;
    };
    expect(await outputOf()).toContain("\u001b[1mSTATE");
    expect(await outputOf({ NO_COLOR: "1" })).not.toContain("\u001b[");
    expect(await outputOf({ TERM: "dumb" })).not.toContain("\u001b[");
    expect((await cli(["ls"], onDatabase())).stdout).not.toContain("\u001b[");
  });
});

describe("pg-locker who", () => {
  test.each(["dedicated", "shared"] as const)(
    "shows a key's holder and waiters below the key, and exits with 0: %s sessions",
    async (sessions) => {
      await using holder = createLocker({ sessions, namespace: 7 });
      await using waiter = createLocker({ sessions, namespace: 7 });
      const key = uniqueKey();
      const lock = await holder.acquire(key);
      await using _another = await holder.acquire(uniqueKey());
      const waits = waiter.acquire(key, { wait: true });
      await until(async () => (await advisoryLocks()).length === 3);
      const rows = await rowsOf(["who", key, "--namespace", "7"]);
      expect(rows).toEqual([
        expect.stringMatching(new RegExp(`^held .* 7 +${lock.id} +${key}$`)),
        expect.stringMatching(new RegExp(`^ {2}waits .* 7 +${lock.id} +${key}$`)),
      ]);
      await lock.release();
      await using _had = await waits;
    },
  );

  test("finds a lock that another application took by hand", async () => {
    const client = await connect();
    const key = uniqueKey();
    await client.query("select pg_advisory_lock_shared($1)", [lockId(0, key)]);
    const { status, stdout } = await cli(["who", key, "--json"], onDatabase());
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject([
      { id: `${lockId(0, key)}`, key, mode: "shared", state: "held", pid: client.processID },
    ]);
  });

  test("says that nobody holds it, and exits with 1", async () => {
    const key = uniqueKey();
    const nobody = { status: 1, stdout: `${asked}\nNobody holds it, and nobody waits for it\n`, stderr: "" };
    expect(await cli(["who", key], onDatabase())).toMatchObject(nobody);
    expect(await cli(["who", key, "--json"], onDatabase())).toMatchObject({ status: 1, stdout: "[]\n" });
    // The same key in another namespace is another lock.
    await using locker = createLocker({ sessions: "dedicated", namespace: 7 });
    await using _lock = await locker.acquire(key);
    expect((await cli(["who", key], onDatabase())).status).toBe(1);
  });
});

describe("standard output", () => {
  /** Runs `pg-locker` with a standard output of the test's choice. */
  async function endOf(child: ChildProcess): Promise<{ status: number | null; stderr: string }> {
    let stderr = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    const [status] = (await once(child, "close")) as [number | null];
    return { status, stderr };
  }

  function start(args: readonly string[], stdout: "pipe" | number = "pipe"): ChildProcess {
    const env = { ...process.env, ...onDatabase().env };
    return spawn(process.execPath, [main, ...args], { env, stdio: ["ignore", stdout, "pipe"] });
  }

  test.each([[["ls"]], [["ls", "--json"]], [["id", "k"]], [["doctor"]], [["--help"]], [["ls", "--help"]]])(
    "that nobody reads any more, as after `head`, is no error: %s",
    async (args) => {
      const child = start(args);
      child.stdout?.destroy();
      expect(await endOf(child)).toEqual({ status: 0, stderr: "" });
    },
  );

  test("that is no longer read is no error, with more locks than a pipe holds", async () => {
    const client = await connect();
    await client.query("select pg_advisory_lock(id) from generate_series(1, 1000) as id");
    const child = start(["ls"]);
    child.stdout?.once("data", () => child.stdout?.destroy());
    expect(await endOf(child)).toEqual({ status: 0, stderr: "" });
    await client.query("select pg_advisory_unlock_all()");
  });

  const full = "/dev/full";
  test.skipIf(!existsSync(full))(
    "that can't be written to is an error (skipped without /dev/full)",
    async () => {
      const file = openSync(full, "w");
      try {
        const sentence = "pg-locker: Standard output can't be written to (ENOSPC)\n";
        expect(await endOf(start(["ls"], file))).toEqual({ status: 70, stderr: sentence });
      } finally {
        closeSync(file);
      }
    },
  );
});

describe("for a database that can't be reached, 69, one line, and no password:", () => {
  const commands = [["ls"], ["who", "k"], ["break", "k"]];

  test.each(commands)("%s", async (...args) => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await proxy.refuse();
    const refused = new URL(proxy.url);
    [refused.username, refused.password] = ["alice", "hunter2"];
    const { status, stdout, stderr } = await cli([...args, "--url", refused.href], onDatabase());
    expect([status, stdout]).toEqual([69, ""]);
    expect(stderr).toMatch(
      /^pg-locker: Looking at locks failed: .*; asked \S+ on 127.0.0.1:\d+, as alice \(--url\)\n$/,
    );
    const verbose = await cli([...args, "--url", refused.href, "--verbose"], onDatabase());
    expect(verbose.stderr).toMatch(/\n +at /);
    expect(stderr + verbose.stderr).not.toContain("hunter2");
  });
});
