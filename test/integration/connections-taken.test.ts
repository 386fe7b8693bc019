import type pg from "pg";
import { describe, expect, test } from "vitest";
import { connect, createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("with all connections taken, holders go on, and nobody else gets in", async () => {
    const settings = { max_connections: 8 };
    await using server = await startServer({ settings });
    const admin = await connect({ connectionString: server.url });
    await admin.query("create role app login");
    const url = new URL(server.url);
    url.username = "app";
    const pool = (max: number): pg.Pool =>
      createPool({ connectionString: url.href, max, idleTimeoutMillis: 0 });
    const warnings: string[] = [];
    const logger = {
      debug() {},
      info() {},
      error() {},
      warn: (_: object, text: string) => void warnings.push(text),
    };
    await using holder = createLocker({ sessions, pool: pool(2) });
    const waiters = pool(2);
    await using waiter = createLocker({ sessions, pool: waiters, logger });
    await using outside = createLocker({ sessions, pool: pool(5) });
    const lock = await holder.acquire(uniqueKey());
    await (await waiter.acquire(uniqueKey())).release();
    const others: pg.Client[] = [];
    for (;;) {
      const other = await connect({ connectionString: url.href }).catch((error: unknown) => error);
      if (other instanceof Error) {
        expect(other).toMatchObject({ code: "53300" });
        break;
      }
      others.push(other as pg.Client);
    }

    const refusal = { code: "DATABASE_ERROR", sqlState: "53300" };
    const key = uniqueKey();
    const all = await Promise.allSettled([
      outside.acquire(key),
      outside.tryAcquire(key),
      outside.withLock(key, () => expect.unreachable()),
      outside.withTransaction(key, () => expect.unreachable()),
      outside.acquireAll([key, uniqueKey()]),
      outside.ping(),
    ]);
    for (const each of all) expect(each).toMatchObject({ status: "rejected", reason: refusal });
    await lock.refresh();

    // A wait outlasts it: it tries again and again on its locker's connection, until its bound.
    const late = outside.acquire(key, { wait: "300ms" }).catch((error: unknown) => error);
    expect(await late).toMatchObject({ reason: "wait-timeout", cause: refusal });
    const waiting = waiter.acquire(lock.key, { wait: true });
    await Promise.race([waiting, until(() => warnings.length > 0)]);
    expect(warnings[0]).toMatch(/^still waiting, in spite of a fault: .*connection slots/);
    await lock.release();
    await (await waiting).release();

    for (const other of others) await other.end();
    await (await until(() => outside.acquire(key).catch(() => undefined))).release();
    await until(() => waiters.idleCount === waiters.totalCount);
  });
});
