import { once } from "node:events";
import { type AddressInfo, createServer, Socket } from "node:net";
import { describe, expect, test } from "vitest";
import { DatabaseError, PoolerDetectedError, PostgresLocker } from "../../src/index.ts";
import { abortWhileItWaits } from "../support/aborted-wait.ts";
import { databaseUrl, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { type Settings, sqlOf } from "../support/postgres-js.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// How a locker makes its connections over postgres.js, and what becomes of them.

async function connectedSocket(): Promise<Socket> {
  const { hostname, port } = new URL(databaseUrl());
  const socket = new Socket();
  await new Promise<void>((resolve) => socket.connect(Number(port), hostname, resolve));
  return socket;
}

/** A TCP server that is not PostgreSQL. */
async function listening(
  came: (socket: Socket) => void,
): Promise<AsyncDisposable & { readonly url: string; readonly sockets: readonly Socket[] }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    came(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `postgres://nobody@127.0.0.1:${(server.address() as AddressInfo).port}/nothing`,
    sockets,
    [Symbol.asyncDispose]: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

describe("a connection that is not made", () => {
  test("because the other side hangs up is reported at once, and delays no close", async () => {
    // Like a load balancer that has no server behind it.
    await using server = await listening((socket) => socket.destroy());
    for (const settings of [{}, { ssl: "require" }] as const) {
      const locker = new PostgresLocker({ sql: sqlOf(settings, server.url), connWaitTimeout: "20s" });
      await expect(locker.acquire(uniqueKey())).rejects.toThrow(/terminated unexpectedly|ECONNRESET|EPIPE/);
      await expect(locker.ping()).rejects.toBeInstanceOf(DatabaseError);
      const start = performance.now();
      await locker.close();
      expect(performance.now() - start).toBeLessThan(4_000);
    }
  });

  test("because there is no password is reported in the server's words", async () => {
    await using server = await startServer();
    await using admin = new PostgresLocker({ sql: sqlOf({}, server.url) });
    await admin.withTransaction("roles", async (client) => {
      await client.query("create role password_required");
      await client.query("create role alice login password 'secret' in role password_required");
    });
    for (const given of [undefined, null, 42]) {
      const sql = sqlOf({ password: () => given as never }, server.url.replace("postgres@", "alice@"));
      await using locker = new PostgresLocker({ sql });
      await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ sqlState: "28P01" });
    }
  });

  const functions: ReadonlyArray<readonly [string, (asked: () => Promise<void>) => object]> = [
    [
      "password",
      (asked) => ({
        password: async () => {
          await asked();
          return new URL(databaseUrl()).password;
        },
      }),
    ],
    [
      "socket",
      (asked) => ({
        socket: async () => {
          await asked();
          return await connectedSocket();
        },
      }),
    ],
  ];

  test.each(functions)(
    "when the locker is closed while a %s is fetched, is never made",
    async (_, settings) => {
      let isFetching = false;
      let fetched = (): void => {};
      const asked = (): Promise<void> => {
        isFetching = true;
        return new Promise((resolve) => {
          fetched = resolve;
        });
      };
      const url = new URL(databaseUrl());
      url.password = "";
      const locker = new PostgresLocker({ sql: sqlOf(settings(asked) as Settings, url.href) });
      const acquiring = locker.acquire(uniqueKey()).catch((error: unknown) => error);
      await until(() => isFetching);
      const start = performance.now();
      await locker.close();
      expect(performance.now() - start).toBeLessThan(4_000);
      expect(await acquiring).toMatchObject({ code: "LOCKER_CLOSED" });
      fetched();
      const backends = () =>
        onServer("select pid from pg_stat_activity where datname = $1", [url.pathname.slice(1)]);
      // At each turn of the loop it could go on.
      for (let turn = 0; turn < 20; turn += 1) expect(await backends()).toEqual([]);
    },
  );
});

describe("of several hosts", () => {
  test("a silent one is left after `connect_timeout`, and not tried first again", async () => {
    await using silent = await listening(() => {});
    const hosts = [silent.url, databaseUrl()].map((url) => new URL(url));
    const settings = {
      host: hosts.map(({ hostname }) => hostname),
      port: hosts.map(({ port }) => Number(port)),
      connect_timeout: 0.5,
    };
    const sql = sqlOf(settings as unknown as Settings);
    await using locker = new PostgresLocker({ sql, sessions: "dedicated", connWaitTimeout: "20s" });
    await using _lock = await locker.acquire(uniqueKey());
    await using _another = await locker.acquire(uniqueKey());
    await locker.ping();
    expect(silent.sockets).toHaveLength(1);
  });
});

describe("a session with locks", () => {
  test("is not recycled as sessions of `sql` are", async () => {
    await using locker = new PostgresLocker({ sql: sqlOf({ max_lifetime: 0.2, idle_timeout: 0.2 }) });
    const lock = await locker.acquire(uniqueKey());
    const session = await holdersOf(lock.id);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await lock.refresh();
    expect(await holdersOf(lock.id)).toEqual(session);
    await lock.release();
  });

  test("is on a primary, though a standby is the first host, and asked for", async () => {
    await using primary = await startServer();
    await using standby = await primary.standby();
    const hosts = [standby.url, primary.url].map((url) => new URL(url));
    const settings = {
      host: hosts.map(({ hostname }) => hostname),
      port: hosts.map(({ port }) => Number(port)),
      target_session_attrs: "standby",
    };
    await using locker = new PostgresLocker({
      sql: sqlOf(settings as unknown as Settings, primary.url),
      ttlEnforcement: "server",
    });
    const lock = await locker.acquire(uniqueKey(), { fencing: true });
    await lock.refresh();
    await locker.ping();
    await lock.release();
  });
});

describe("a COPY in a transaction", () => {
  test.each(["copy copied from stdin", "copy copied to stdout"])(
    "is refused, and the process lives on: %s",
    async (copy) => {
      await using locker = new PostgresLocker({ sql: sqlOf({ max: 1 }) });
      const key = uniqueKey();
      await locker.withTransaction(key, async (client) => {
        await client.query("create table if not exists copied (a text)");
        await client.query("insert into copied select repeat('x', 1000) from generate_series(1, 1000)");
      });
      const refused = locker.withTransaction(key, async (client) => void (await client.query(copy)));
      await expect(refused).rejects.toThrow(
        "COPY from or to the client is not supported in `withTransaction`",
      );
      const counted = await locker.withTransaction(key, (client) =>
        client.query("select count(*)::int from copied"),
      );
      expect(counted.rows).toMatchObject([{ count: expect.any(Number) }]);
    },
  );
});

describe.skipIf(!PgBouncer.installed)("behind PgBouncer (skipped where pgbouncer is not installed)", () => {
  test("sessions are refused in transaction mode, and transactions are not", async () => {
    await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "transaction" });
    await using locker = new PostgresLocker({ sql: sqlOf({ prepare: false }, bouncer.url) });
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(PoolerDetectedError);
    const value = await locker.withTransaction(uniqueKey(), (client) => client.query("select 1 as one"));
    expect(value.rows).toEqual([{ one: 1 }]);
  });

  test("sessions carry locks and cancelled waits in session mode, if the locker is told", async () => {
    await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
    const options = { sql: sqlOf({}, bouncer.url), pooler: "session" } as const;
    await using locker = new PostgresLocker(options);
    await using other = new PostgresLocker(options);
    const lock = await locker.acquire(uniqueKey(), { fencing: true });
    await abortWhileItWaits((signal) => other.acquire(lock.key, { wait: true, signal }));
    await lock.release();
  });
});
