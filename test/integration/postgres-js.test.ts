import { execFile, spawnSync } from "node:child_process";
import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import pg from "pg";
import postgres from "postgres";
import { describe, expect, test } from "vitest";
import { DatabaseError, PostgresLocker, type PostgresLockerOptions } from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";
import { abortWhileItWaits } from "../support/aborted-wait.ts";
import { Child } from "../support/child.ts";
import { advisoryLocks, databaseUrl, holdersOf, onServer, uniqueKey, urlWith } from "../support/database.ts";
import { freePort } from "../support/free-port.ts";
import { type Settings, sqlOf } from "../support/postgres-js.ts";
import { snippetsOf } from "../support/snippets.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { hasOpenssl, turnOnTls } from "../support/tls.ts";
import { until } from "../support/until.ts";

// postgres.js as the driver. How its sessions behave under faults is tested by the files that vitest.config.ts also runs over it.

for (const [sessions, ttlEnforcement] of [
  ["dedicated", "client"],
  ["shared", "server"],
] as const) {
  testLockerContract(`over postgres.js, ${sessions} sessions, TTL enforced by the ${ttlEnforcement}`, {
    runner: { describe, test },
    transactions: true,
    create: async () => ({
      locker: new PostgresLocker({ sql: sqlOf(), sessions, ttlEnforcement }),
      another: () => new PostgresLocker({ sql: sqlOf(), sessions, ttlEnforcement }),
    }),
    deviations: ttlEnforcement === "client" ? ["lapsed-lock-stays"] : [],
    concurrent: true,
  });
}

describe("a process that holds a lock over postgres.js", () => {
  test.each(["dedicated", "shared"])(
    "lives on when its backends are terminated, idle and busy ones (%s)",
    async (SESSIONS) => {
      const [key, other] = [uniqueKey(), uniqueKey()];
      const env = { DATABASE_URL: databaseUrl(), SESSIONS };
      await using child = Child.start("hold-postgres-js.mjs", { args: [key, other], env });
      await child.message((message) => "held" in message);
      await onServer(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid = any($1)",
        [(await advisoryLocks()).map(({ pid }) => pid)],
      );
      expect(await child.message((message) => "lost" in message)).toEqual({ lost: "LOCK_LOST" });
      expect(await child.message((message) => "failed" in message)).toEqual({ failed: "57P01" });
      child.send({});
      expect(await child.message((message) => "again" in message)).toEqual({ again: true });
      // Nothing of the locker keeps the process alive: neither an idle connection nor a timer.
      expect(await child.exited).toEqual({ code: 0, signal: null });
      expect(child.stderr).toBe("");
    },
  );

  test("lives on when the server crashes, and waits for it to be back", async () => {
    await using server = await startServer();
    const env = { DATABASE_URL: server.url, SESSIONS: "shared" };
    await using child = Child.start("hold-postgres-js.mjs", { args: [uniqueKey(), uniqueKey()], env });
    await child.message((message) => "held" in message);
    await server.restart({ mode: "immediate" });
    expect(await child.message((message) => "lost" in message)).toEqual({ lost: "LOCK_LOST" });
    child.send({});
    expect(await child.message((message) => "again" in message, { deadline: 20_000 })).toEqual({
      again: true,
    });
    expect(await child.exited).toEqual({ code: 0, signal: null });
  });
});

describe("the application's `sql`", () => {
  test("is not used: its end ends no lock, and its connections are the application's", async () => {
    const sql = sqlOf({ max: 1 });
    await using locker = new PostgresLocker({ sql });
    const lock = await locker.acquire(uniqueKey());
    expect(await sql`select 1 as one`).toEqual([{ one: 1 }]);
    const [pid] = await holdersOf(lock.id);
    expect(await sql`select pg_backend_pid() as pid`).not.toEqual([{ pid }]);
    await sql.end();
    await lock.refresh();
    await lock.release();
  });

  test("may transform values, rows and columns; the locker reads its own untransformed", async () => {
    const wrong = (): never => expect.unreachable("a value of the locker's was changed");
    const sql = sqlOf({
      transform: {
        undefined: null,
        column: postgres.toCamel,
        value: (value: unknown) => (typeof value === "string" ? value.toUpperCase() : value),
        row: (row: object) => ({ ...row, transformed: true }),
      },
      types: { text: { to: 25, from: [25], serialize: wrong, parse: wrong } },
      prepare: false,
      fetch_types: false,
      connection: { search_path: "nowhere" },
      debug: wrong,
      onnotice: wrong,
      onparameter: wrong,
      onclose: wrong,
    });
    await using locker = new PostgresLocker({ sql });
    const key = uniqueKey();
    const lock = await locker.acquire(key, { fencing: true, wait: "1s" });
    await lock.refresh();
    await lock.release();
    const rows = await locker.withTransaction(key, async (client) => {
      await client.query("do $$ begin raise notice 'of the transaction'; end $$");
      const path = "current_setting('search_path')::varchar as search_path";
      return (await client.query(`select $1::int as a_number, 'a'::varchar as a_text, ${path}`, [1])).rows;
    });
    expect(rows).toEqual([{ aNumber: 1, aText: "A", searchPath: "NOWHERE", transformed: true }]);
  });

  test("is asked for its password each time; if it has none, the acquire fails", async () => {
    const passwords: Array<() => string> = [
      () => {
        throw new Error("the vault is closed");
      },
      () => new URL(databaseUrl()).password,
    ];
    const password = async () => passwords.shift()?.() ?? "";
    const url = new URL(databaseUrl());
    url.password = "";
    await using locker = new PostgresLocker({
      sql: sqlOf({ password }, url.href),
      sessions: "dedicated",
    });
    await expect(locker.acquire(uniqueKey())).rejects.toThrow("the vault is closed");
    await (await locker.acquire(uniqueKey())).release();
  });

  test.each([
    ["a wrong password", { url: urlWith({ user: "nobody", password: "x" }) }, { sqlState: /^28/ }],
    ["a database that isn't there", { url: urlWith({ database: "nowhere" }) }, { sqlState: /^3D000$/ }],
  ])("%s is reported in the server's words", async (_, { url }, { sqlState }) => {
    await using locker = new PostgresLocker({ sql: sqlOf({}, url) });
    for (const ask of [() => locker.acquire(uniqueKey()), () => locker.ping()]) {
      const failed = await ask().catch((error: unknown) => error);
      expect(failed).toBeInstanceOf(DatabaseError);
      expect(failed).toMatchObject({ sqlState: expect.stringMatching(sqlState) });
    }
  });

  test("without a server is reported in the system's words", async () => {
    const port = await freePort();
    await using locker = new PostgresLocker({ sql: sqlOf({ host: "127.0.0.1", port }) });
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ cause: { code: "ECONNREFUSED" } });
  });

  test("of several hosts, the first that can be reached has the locks", async () => {
    const { hostname, port } = new URL(databaseUrl());
    const settings = { host: ["127.0.0.1", hostname], port: [await freePort(), Number(port)] };
    await using locker = new PostgresLocker({ sql: sqlOf(settings as unknown as Settings) });
    const lock = await locker.acquire(uniqueKey());
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
  });

  test("with a socket of its own is connected by that, also for a cancellation", async () => {
    const { hostname, port } = new URL(databaseUrl());
    const sockets: Socket[] = [];
    const socket = async () => {
      const made = new Socket();
      await new Promise<void>((resolve) => made.connect(Number(port), hostname, resolve));
      sockets.push(made);
      return made;
    };
    const sql = sqlOf({ socket } as Settings);
    await using locker = new PostgresLocker({ sql });
    const lock = await locker.acquire(uniqueKey());
    await using other = new PostgresLocker({ sql });
    await abortWhileItWaits((signal) => other.acquire(lock.key, { wait: true, signal }));
    await lock.release();
    expect(sockets.length).toBeGreaterThanOrEqual(3);
  });
});

describe("a connection", () => {
  test("that isn't there in time: the pool is saturated, or the server silent", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const sql = sqlOf({ max: 1 }, proxy.url);
    await using locker = new PostgresLocker({ sql, sessions: "dedicated", connWaitTimeout: "2s" });
    const lock = await locker.acquire(uniqueKey());
    const bounded = { sql, sessions: "dedicated", connWaitTimeout: 200 } as const;
    await using second = new PostgresLocker(bounded);
    const saturating = locker.acquire(uniqueKey());
    await expect(saturating).rejects.toMatchObject({ reason: "pool-saturated" });
    await lock.release();
    await using patient = new PostgresLocker({
      sql: sqlOf({ connect_timeout: 0.2 }, proxy.url),
      connWaitTimeout: -1,
    });
    proxy.freeze();
    for (const waiting of [second, patient])
      await expect(waiting.acquire(uniqueKey())).rejects.toMatchObject({ reason: "connection-timeout" });
    proxy.thaw();
  });

  test("that comes after its caller gave up goes to the next caller", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = new PostgresLocker({ sql: sqlOf({ max: 1 }, proxy.url), sessions: "dedicated" });
    const aborting = new AbortController();
    proxy.freeze();
    const aborted = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await until(() => proxy.size > 0);
    aborting.abort(new Error("the caller's own"));
    await expect(aborted).rejects.toThrow("the caller's own");
    proxy.thaw();
    await (await locker.acquire(uniqueKey())).release();
    expect(proxy.size).toBeLessThanOrEqual(2);
  });

  test("that is being made when the locker is closed is given up", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    proxy.freeze();
    const locker = new PostgresLocker({ sql: sqlOf({}, proxy.url) });
    const acquiring = locker.acquire(uniqueKey()).catch((error: unknown) => error);
    await until(() => proxy.size > 0);
    await locker.close();
    expect(await acquiring).toMatchObject({ code: "LOCKER_CLOSED" });
    proxy.thaw();
    await until(() => proxy.size === 0);
  });

  test("whose TTL the server enforces ends there, when its holder has fallen silent", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = new PostgresLocker({ sql: sqlOf({}, proxy.url), ttlEnforcement: "server" });
    await using next = new PostgresLocker({ sql: sqlOf() });
    const lock = await locker.acquire(uniqueKey(), { ttl: "1s" });
    proxy.freeze();
    const taken = await next.acquire(lock.key, { wait: "10s" });
    expect(lock.held).toBe(false);
    await taken.release();
  });
});

describe.skipIf(!hasOpenssl)("TLS (skipped without openssl)", () => {
  test("follows `ssl`, and a certificate that nobody vouches for is refused", async () => {
    await using server = await startServer();
    const plain = server.url;
    await using before = new PostgresLocker({ sql: sqlOf({ ssl: "require" }, plain) });
    await expect(before.acquire(uniqueKey())).rejects.toThrow("The server does not support SSL connections");
    await using preferring = new PostgresLocker({ sql: sqlOf({ ssl: "prefer" }, plain) });
    await (await preferring.acquire(uniqueKey())).release();
    await preferring.close();
    const admin = new pg.Client({ connectionString: plain });
    await admin.connect();
    try {
      await turnOnTls(server, admin);
      for (const ssl of ["require", "prefer"] as const) {
        await using locker = new PostgresLocker({ sql: sqlOf({ ssl }, plain) });
        const lock = await locker.acquire(uniqueKey());
        const { rows } = await admin.query(
          "select ssl from pg_stat_ssl where pid = any (select pid from pg_locks where locktype = 'advisory')",
        );
        expect(rows).toEqual([{ ssl: true }]);
        // In the middle of a wait, because its cancellation uses TLS as well.
        await expect(locker.acquire(lock.key, { wait: 100 })).rejects.toMatchObject({
          reason: "wait-timeout",
        });
        await lock.release();
      }
      for (const ssl of ["verify-full", { ca: "no certificate" }] as const) {
        await using locker = new PostgresLocker({ sql: sqlOf({ ssl }, plain) });
        await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
      }
    } finally {
      await admin.end();
    }
  });
});

describe("what is not the `sql` of postgres.js", () => {
  test.each([
    ["its function", postgres],
    ["a pool of node-postgres", new pg.Pool()],
    ["a string", databaseUrl()],
    ["null", null],
  ])("%s is refused", (_, sql) => {
    expect(() => new PostgresLocker({ sql } as unknown as PostgresLockerOptions)).toThrow(
      expect.objectContaining({ code: "INVALID_CONFIG", field: "sql" }),
    );
  });

  test("that of a transaction, or of a reserved connection, is refused", async () => {
    const sql = sqlOf({ max: 1 });
    const refused = (got: unknown): void => {
      expect(() => new PostgresLocker({ sql: got } as unknown as PostgresLockerOptions)).toThrow(
        "Expected `sql` to be the `sql` that postgres.js's `postgres(…)` returns",
      );
    };
    await sql.begin(async (tx) => refused(tx));
    const reserved = await sql.reserve();
    refused(reserved);
    reserved.release();
    await sql.end();
  });

  test("beside another way to the database is refused, and so is a wrong `max`", () => {
    const sql = sqlOf();
    expect(() => new PostgresLocker({ sql, connectionString: "postgres://h/d" })).toThrow(
      "Expected `sql` to be absent if `connectionString` is given",
    );
    expect(() => new PostgresLocker({ sql: sqlOf({ max: "3" as unknown as number }) })).toThrow(
      expect.objectContaining({ field: "sql.options.max" }),
    );
  });
});

test("an application without node-postgres needs none, as docs/drivers.md has it", async () => {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const folder = await mkdtemp(join(tmpdir(), "pg-locker-without-pg-"));
  try {
    const modules = join(folder, "node_modules");
    await mkdir(join(modules, "pg-locker"), { recursive: true });
    for (const name of ["package.json", "dist"])
      await cp(join(root, name), join(modules, "pg-locker", name), { recursive: true });
    for (const name of ["postgres", "@opentelemetry/api", "picocolors", "fastest-levenshtein"])
      await cp(join(root, "node_modules", name), join(modules, name), { recursive: true });
    const program = `
      const locker = new PostgresLocker({ sql: postgres(process.env.DATABASE_URL) });
      locker
        .withLock("without pg", (lock) => console.log(lock.held))
        .then(() => locker.close())
        .then(() => new PostgresLocker({ connectionString: "postgres://localhost" }).acquire("none"))
        .catch((error) => console.log(error.code, error.message));`;
    const heads = {
      "app.mjs": `import postgres from "postgres"; import { PostgresLocker } from "pg-locker";`,
      "app.cjs": `const postgres = require("postgres"); const { PostgresLocker } = require("pg-locker");`,
    };
    const run = async (name: string, code: string): Promise<string> => {
      await writeFile(join(folder, name), code);
      const options = { cwd: folder, env: { ...process.env, DATABASE_URL: databaseUrl() } };
      return (await promisify(execFile)(process.execPath, [name], options)).stdout;
    };
    const command = join(modules, "pg-locker", "dist", "cli", "start.js");
    const cli = (...args: string[]) => {
      const env = { ...process.env, DATABASE_URL: databaseUrl() };
      return spawnSync(process.execPath, [command, ...args], { env, encoding: "utf8" });
    };
    for (const args of [["--help"], ["--version"], ["help", "ls"], ["run", "--help"], ["id", "k"]]) {
      expect({ args, ...cli(...args) }).toMatchObject({ args, status: 0, stderr: "" });
    }
    expect(cli("ls", "--url", "mysql://localhost")).toMatchObject({ status: 64 });
    for (const args of [["ls"], ["ls", "--local"], ["run", "k", "--", "true"], ["doctor"], ["demo"]]) {
      const { status, stderr } = cli(...args);
      expect([status, stderr]).toEqual([
        69,
        "pg-locker: The package `pg` (node-postgres) is not installed, which the command line needs: npm install pg\n",
      ]);
    }
    const [page] = await snippetsOf("docs/drivers.md");
    expect(await run("page.mjs", page?.code ?? "")).toBe("1\n");
    for (const [name, head] of Object.entries(heads)) {
      expect(await run(name, head + program)).toBe(
        'true\nDATABASE_ERROR Taking the lock "none" failed: the option `connectionString` needs the package `pg` (node-postgres) beside pg-locker\n',
      );
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
