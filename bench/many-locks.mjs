// What shared sessions make of many callers and many locks, beside a connection a lock, by hand and by the library.
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";
import { withClient, withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";

const rounds = 5;
const held = 10_000;
const settings = { max_locks_per_transaction: 256, shared_preload_libraries: "pg_stat_statements" };
const aim = { 64: 8, 1024: 15, alone: 1.2, heldRatio: 1.5, connections: 10, bytes: 1_024, cpuShare: 0.02 };

export function manyLocks() {
  return withDatabase(settings, async (url) => {
    const rates = [];
    for (const callers of [1, 64, 1_024]) rates.push(await cycles(url, callers));
    return { rounds, aim, held, rates, crowd: await manyHeld(url) };
  });
}

/** Cycles of acquire and release: a second, and the median of one, in milliseconds. */
async function cycles(url, callers) {
  const dedicatedPool = new pg.Pool({ connectionString: url, max: 64 });
  const sharedPool = new pg.Pool({ connectionString: url, max: 2 });
  const dedicated = new PostgresLocker({ pool: dedicatedPool, connWaitTimeout: -1 });
  const shared = new PostgresLocker({ pool: sharedPool, sessions: "shared" });
  const byLibrary = (locker) => async (key) => (await locker.acquire(key)).release();
  const kinds = {
    byHand: async (_, id) => {
      const client = await dedicatedPool.connect();
      await client.query("select pg_try_advisory_lock($1)", [id]);
      await client.query("select pg_advisory_unlock($1)", [id]);
      client.release();
    },
    dedicated: byLibrary(dedicated),
    shared: byLibrary(shared),
  };
  const operations = callers === 1 ? 2_000 : 16_384;
  const names = Object.keys(kinds);
  try {
    for (const name of names) await run(kinds[name], callers, operations / 2);
    const measured = await interleaved(rounds, names, (name) => run(kinds[name], callers, operations));
    const of = (name, what) => measured[name].map((each) => each[what]);
    const summary = (name) => ({
      perSecond: median(of(name, "perSecond")),
      rateRatio: medianRatio(of(name, "perSecond"), of("byHand", "perSecond")),
      p50Ms: median(of(name, "p50")),
      p50Ratio: medianRatio(of(name, "p50"), of("byHand", "p50")),
    });
    const kindsMeasured = Object.fromEntries(names.map((name) => [name, summary(name)]));
    return { callers, ...kindsMeasured, sharedConnections: sharedPool.totalCount };
  } finally {
    await Promise.all([dedicated.close(), shared.close()]);
    await Promise.all([dedicatedPool.end(), sharedPool.end()]);
  }
}

async function run(operation, callers, operations) {
  const times = [];
  const caller = async (number) => {
    const key = `bench:${number}`;
    const id = lockId(0, key).toString();
    for (let i = 0; i < operations / callers; i += 1) {
      const start = performance.now();
      await operation(key, id);
      times.push(performance.now() - start);
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: callers }, (_, number) => caller(number)));
  const took = performance.now() - start;
  return { perSecond: (times.length / took) * 1_000, p50: percentile(sorted(times), 0.5) };
}

/** Ten thousand locks that refresh themselves: what they cost while nothing else happens, and one more beside them. */
async function manyHeld(url) {
  await withClient(url, (client) => client.query("create extension if not exists pg_stat_statements"));
  const pool = new pg.Pool({ connectionString: url, max: 20 });
  const locker = new PostgresLocker({ pool, sessions: "shared" });
  try {
    const one = async () => {
      const times = [];
      for (let i = 0; i < 1_000; i += 1) {
        const start = performance.now();
        const lock = await locker.acquire(`one:${i % 10}`);
        times.push(performance.now() - start);
        await lock.release();
      }
      return percentile(sorted(times), 0.5);
    };
    await one();
    const alone = await one();
    const before = memory();
    const locks = await Promise.all(
      Array.from({ length: held }, (_, i) => locker.acquire(`held:${i}`, { ttl: "10s", autoRefresh: true })),
    );
    const bytes = (memory() - before) / held;
    const beside = await one();
    const seconds = 20;
    const statements = await calls(url);
    const cpu = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
    const { user, system } = process.cpuUsage(cpu);
    // Those that count are of another connection, two in all.
    const asked = (await calls(url)) - statements - 1;
    const stillHeld = locks.every((lock) => lock.held);
    const connections = pool.totalCount;
    await Promise.all(locks.map((lock) => lock.release()));
    return {
      connections,
      bytes,
      stillHeld,
      acquireMs: { alone, beside, ratio: beside / alone },
      statementsPerSecond: asked / seconds,
      cpuShare: (user + system) / 1e6 / seconds,
    };
  } finally {
    await locker.close();
    await pool.end();
  }
}

function memory() {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

async function calls(url) {
  const { rows } = await withClient(url, (client) =>
    client.query("select sum(calls)::int8::text as calls from pg_stat_statements"),
  );
  return Number(rows[0].calls);
}
