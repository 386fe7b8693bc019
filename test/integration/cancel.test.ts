import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect as connectSocket, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { expect, test } from "vitest";
import { cancelStatement } from "../../src/postgres/cancel.ts";
import type { Client } from "../../src/postgres/driver.ts";
import { connect, createPool, databaseUrl, onServer } from "../support/database.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { hasOpenssl, turnOnTls } from "../support/tls.ts";
import { until } from "../support/until.ts";

const asClient = (client: pg.Client | pg.PoolClient): Client => client as unknown as Client;

/** Starts a statement that takes a minute, and resolves when the server has begun to run it. */
async function sleepOn(
  client: pg.Client | pg.PoolClient,
  look: (sql: string, values: unknown[]) => Promise<unknown[]> = onServer,
): Promise<{ outcome: Promise<unknown> }> {
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  const outcome = client.query("select pg_sleep(60)").then(
    () => "slept",
    (error: unknown) => error,
  );
  const asleep = "select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'";
  await until(async () => (await look(asleep, [rows[0]?.pid])).length === 1);
  return { outcome };
}

const canceled = { code: "57014" };

test("a cancel ends the statement of a client, which can be used on", async () => {
  const client = await connect();
  for (let round = 0; round < 3; round += 1) {
    const { outcome } = await sleepOn(client);
    await cancelStatement(asClient(client));
    await expect(outcome).resolves.toMatchObject(canceled);
    expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  }
});

test("a cancel reaches a pool's client, whose options only the pool has", async () => {
  const { hostname: host, port, username: user, pathname } = new URL(databaseUrl());
  const pool = createPool({
    connectionString: "",
    host,
    port: Number(port),
    user,
    database: pathname.slice(1),
  });
  const client = await pool.connect();
  const { outcome } = await sleepOn(client);
  await cancelStatement(asClient(client));
  await expect(outcome).resolves.toMatchObject(canceled);
  client.release();
});

test("a cancel of an idle session changes nothing, and never hits the next statement", async () => {
  const client = await connect();
  for (let round = 0; round < 200; round += 1) {
    const short = client.query("select pg_sleep(0.001)").catch((error: unknown) => error);
    await Promise.all([cancelStatement(asClient(client)), short]);
    await client.query("select 1");
  }
});

test("a cancel works over a Unix socket", async () => {
  const { hostname, port, username, pathname } = new URL(databaseUrl());
  const directory = await mkdtemp(join(tmpdir(), "pg-locker-"));
  const sockets = new Set<Socket>();
  const relay = createServer((client) => {
    const server = connectSocket(Number(port), hostname);
    for (const socket of [client, server]) sockets.add(socket.on("error", () => {}));
    client.pipe(server).pipe(client);
  });
  try {
    relay.listen(join(directory, ".s.PGSQL.5432"));
    await once(relay, "listening");
    const config = { host: directory, port: 5432, user: username, database: pathname.slice(1) };
    const client = new pg.Client(config);
    client.on("error", () => {});
    await client.connect();
    const { outcome } = await sleepOn(client);
    await cancelStatement(asClient(client));
    await expect(outcome).resolves.toMatchObject(canceled);
    await client.end();
  } finally {
    for (const socket of sockets) socket.destroy();
    relay.close();
    await rm(directory, { recursive: true });
  }
});

test.skipIf(!hasOpenssl)(
  "a cancel over TLS verifies the server as before (skipped without openssl)",
  async () => {
    await using server = await startServer();
    const admin = await connect({ connectionString: server.url });
    const { certificate } = await turnOnTls(server, admin);
    await admin.query("create role app login");
    const look = async (sql: string, values: unknown[]) => (await admin.query(sql, values)).rows;
    const url = new URL(server.url);
    const ca = await readFile(certificate, "utf8");
    const seen: string[] = [];
    const ssl = {
      ca,
      checkServerIdentity: (name: string) => {
        seen.push(name);
        return undefined;
      },
    };
    const client = await connect({ connectionString: url.href.replace("127.0.0.1", "localhost"), ssl });
    const { outcome } = await sleepOn(client, look);
    await cancelStatement(asClient(client));
    await expect(outcome).resolves.toMatchObject(canceled);
    expect(seen).toEqual(["localhost", "localhost"]);
    const unsure = await connect({ connectionString: url.href, ssl: { rejectUnauthorized: false } });
    const { outcome: another } = await sleepOn(unsure, look);
    await cancelStatement(asClient(unsure));
    await expect(another).resolves.toMatchObject(canceled);
  },
);

test("a cancel works when all of max_connections are taken", async () => {
  const settings = { max_connections: 6 };
  await using server = await startServer({ settings });
  const url = new URL(server.url);
  const admin = await connect({ connectionString: server.url });
  await admin.query("create role app login");
  url.username = "app";
  const client = await connect({ connectionString: url.href });
  for (;;) {
    const other = await connect({ connectionString: url.href }).catch((error: unknown) => error);
    if (other instanceof Error) break;
  }
  const { outcome } = await sleepOn(client, async (sql, values) => (await admin.query(sql, values)).rows);
  await cancelStatement(asClient(client));
  await expect(outcome).resolves.toMatchObject(canceled);
});

test.skipIf(!PgBouncer.installed)("a cancel works through PgBouncer in transaction mode", async () => {
  await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "transaction", poolSize: 3 });
  const client = await connect({ connectionString: bouncer.url });
  await client.query("begin");
  const { outcome } = await sleepOn(client);
  await cancelStatement(asClient(client));
  await expect(outcome).resolves.toMatchObject(canceled);
  await client.end();
});

test("a cancel to a dead host ends within seconds, and leaves no connection", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const client = await connect({ connectionString: proxy.url });
  await proxy.refuse();
  await cancelStatement(asClient(client));
  await proxy.accept();
  proxy.freeze();
  const start = performance.now();
  await cancelStatement(asClient(client));
  expect(performance.now() - start).toBeLessThan(10_000);
  proxy.thaw();
  await until(() => proxy.size === 1);
  expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
});

test("a cancel leaves a client alone that is not node-postgres's, or not connected", async () => {
  const never = new pg.Client({ connectionString: databaseUrl() });
  for (const client of [{}, { connection: {} }, { query: () => {} }, never]) {
    await cancelStatement(client as unknown as Client);
  }
});
