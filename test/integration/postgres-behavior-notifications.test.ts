import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, onServer } from "../support/database.ts";
import { startServer } from "../support/start-server.ts";
import { makeCommitsWait } from "../support/synchronous-standby.ts";
import { until } from "../support/until.ts";

// The facts that questions for keys, and their answers, rely on: see src/sessions/key-answers.ts.

describe("a session that listens", () => {
  test("is ended by idle_session_timeout, whatever notifications it gets meanwhile", async () => {
    const [listener, other] = [await connect(), await connect()];
    let got = 0;
    listener.on("notification", () => {
      got += 1;
    });
    await listener.query("listen facts; set idle_session_timeout = '700ms'");
    await until(async () => {
      await other.query("notify facts");
      const { rows } = await other.query("select from pg_stat_activity where pid = $1", [listener.processID]);
      return rows.length === 0;
    });
    expect(got).toBeGreaterThan(1);
  });

  test("says nothing new in pg_stat_activity when a notification comes", async () => {
    const [listener, other] = [await connect(), await connect()];
    const notified = new Promise((resolve) => listener.once("notification", resolve));
    await listener.query("listen facts");
    const seen = async () => {
      const sql = "select query, state, state_change from pg_stat_activity where pid = $1";
      return (await other.query(sql, [listener.processID])).rows[0];
    };
    const before = await seen();
    await other.query("notify facts");
    await notified;
    expect(await seen()).toEqual(before);
  });

  test("has neither a lock that is seen nor a transaction id of its own", async () => {
    const listener = await connect();
    await listener.query("begin");
    await listener.query("listen facts");
    const { rows } = await listener.query(
      "select locktype from pg_locks where pid = pg_backend_pid() and locktype not in ('virtualxid', 'relation')",
    );
    expect(rows).toEqual([]);
    await listener.query("rollback");
  });

  test("is told of nothing in another database", async () => {
    const listener = await connect();
    const payloads: unknown[] = [];
    listener.on("notification", ({ payload }) => payloads.push(payload));
    await listener.query("listen facts");
    await onServer("select pg_notify('facts', 'elsewhere')");
    await listener.query("select pg_notify('facts', 'here')");
    await until(() => payloads.includes("here"));
    expect(payloads).toEqual(["here"]);
  });
});

test("a payload has 7999 bytes at most", async () => {
  const session = await connect();
  await session.query("select pg_notify('facts', repeat('x', 7999))");
  await expect(session.query("select pg_notify('facts', repeat('x', 8000))")).rejects.toMatchObject({
    code: "22023",
  });
});

test("a comment alone is a statement, and is shown as the last one, until the next", async () => {
  const [session, other] = [await connect(), await connect()];
  const shown = async () =>
    (await other.query("select query from pg_stat_activity where pid = $1", [session.processID])).rows[0]
      ?.query;
  await session.query("/* what it is for */");
  expect(await shown()).toBe("/* what it is for */");
  await session.query("select 1");
  expect(await shown()).toBe("select 1");
});

describe("while a transaction with a notification waits for a standby in its commit", () => {
  let server: PostgresServer;
  let slow: pg.Client;
  let hanging: Promise<unknown>;

  beforeAll(async () => {
    server = await startServer();
    slow = await client();
    await makeCommitsWait(server.url);
    hanging = slow
      .query(`select pg_logical_emit_message(true, 'facts', ''), pg_notify('facts', '')`)
      .catch(() => {});
    const watcher = await client();
    const waits = "select from pg_stat_activity where wait_event = 'SyncRep'";
    await until(async () => (await watcher.query(waits)).rows.length === 1);
    await watcher.end();
  });

  afterAll(async () => {
    const admin = await client();
    await admin.query("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'");
    await hanging;
    await admin.end();
    await slow.end().catch(() => {});
    await server[Symbol.asyncDispose]();
  });

  async function client(): Promise<pg.Client> {
    const made = new pg.Client({ connectionString: server.url });
    made.on("error", () => {});
    await made.connect();
    return made;
  }

  test("LISTEN and UNLISTEN are done at once", async () => {
    const session = await client();
    await session.query("listen facts");
    await session.query("unlisten facts");
    await session.end();
  });

  test("another notification waits, and lock_timeout ends that", async () => {
    const session = await client();
    await session.query("set lock_timeout = '100ms'");
    await expect(session.query("notify facts")).rejects.toMatchObject({ code: "55P03" });
    await session.end();
  });

  test("a notification waits beyond statement_timeout", async () => {
    const session = await client();
    await session.query("set statement_timeout = '100ms'; set lock_timeout = '700ms'");
    await expect(session.query("notify facts")).rejects.toMatchObject({ code: "55P03" });
    await session.end();
  });
});
