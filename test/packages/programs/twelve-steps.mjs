// Uses the library in twelve steps, on the runtime that runs this. Each step throws if it fails. The program ends by itself.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

const { PostgresLocker } =
  process.argv[2] === "require" ? createRequire(import.meta.url)("pg-locker") : await import("pg-locker");

const connectionString = process.env.DATABASE_URL;
const prefix = `steps:${process.pid}:${Date.now()}:`;
const pool = new pg.Pool({ connectionString, max: 8 });
pool.on("error", () => {});
const one = new PostgresLocker({ pool });
const two = new PostgresLocker({ connectionString });
const enforced = new PostgresLocker({ connectionString, ttlEnforcement: "server" });

const steps = {
  "a lock is taken, held and given back": async (key) => {
    const lock = await one.acquire(key);
    assert.equal(lock.held, true);
    await lock.refresh();
    await lock.release();
    assert.equal(lock.held, false);
  },
  "another locker is refused meanwhile": async (key) => {
    const lock = await one.acquire(key);
    await assert.rejects(two.acquire(key), { code: "LOCK_NOT_ACQUIRED", reason: "held" });
    assert.equal(await two.tryAcquire(key), undefined);
    await lock.release();
  },
  "one that waits is handed the lock": async (key) => {
    const lock = await one.acquire(key);
    const waiting = two.acquire(key, { wait: "20s" });
    await delay(50);
    await lock.release();
    await (await waiting).release();
  },
  "withLock refreshes for as long as its function runs": async (key) => {
    const value = await one.withLock(
      key,
      async (lock) => {
        await delay(900);
        assert.equal(lock.held, true);
        return 42;
      },
      { ttl: "600ms" },
    );
    assert.equal(value, 42);
  },
  "a transaction holds the lock until its end": async (key) => {
    await one.withTransaction(key, async (client) => {
      assert.deepEqual((await client.query("select 1 as one")).rows, [{ one: 1 }]);
      assert.equal(await two.tryAcquire(key), undefined);
    });
    await (await two.acquire(key)).release();
  },
  "so does one of the caller's own": async (key) => {
    const client = await pool.connect();
    await client.query("begin");
    await one.withTransaction(key, () => {}, { client });
    assert.equal(await two.tryAcquire(key), undefined);
    await client.query("commit");
    client.release();
    await (await two.acquire(key)).release();
  },
  "fencing tokens grow": async (key) => {
    const first = await one.acquire(key, { fencing: true });
    await first.release();
    const second = await two.acquire(key, { fencing: true });
    await second.release();
    assert.ok(second.fencingToken > first.fencingToken);
  },
  "a lock whose session is ended is lost": async (key) => {
    const lock = await two.acquire(key);
    const lost = new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
    await pool.query(
      `select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted
         and (classid::bigint << 32) | objid::bigint = $1 and objsubid = 1`,
      [lock.id.toString()],
    );
    await lost;
    assert.equal(lock.signal.reason.code, "LOCK_LOST");
    assert.equal(lock.held, false);
  },
  "the server frees a lock whose TTL passes": async (key) => {
    const lock = await enforced.acquire(key, { ttl: "300ms" });
    await (await one.acquire(key, { wait: "20s" })).release();
    assert.equal(lock.signal.reason.code, "LOCK_EXPIRED");
  },
  "a wait ends with its signal": async (key) => {
    const lock = await one.acquire(key);
    const reason = new Error("enough");
    const waiting = two.acquire(key, { wait: true, signal: AbortSignal.abort(reason) });
    await assert.rejects(waiting, reason);
    await lock.release();
  },
  "several keys are taken together": async (key) => {
    const group = await one.acquireAll([`${key}:b`, `${key}:a`]);
    assert.equal(group.held, true);
    assert.equal(await two.tryAcquire(`${key}:a`), undefined);
    await group.release();
  },
  "a locker answers to ping, and closes": async (key) => {
    await one.ping();
    const lock = await two.acquire(key);
    for (const locker of [one, two, enforced]) await locker.close();
    assert.equal(lock.held, false);
    await assert.rejects(two.acquire(key), { code: "LOCKER_CLOSED" });
    await pool.end();
  },
};

for (const [step, take] of Object.entries(steps)) {
  await take(`${prefix}${step}`).catch((cause) => {
    throw new Error(`it is not so that ${step}`, { cause });
  });
}
console.log(`${Object.keys(steps).length} steps`);
