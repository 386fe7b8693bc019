// Measures what ten thousand locks held by one process cost the process and the server.
import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { withClient, withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";

const rounds = 5;
const held = 10_000;
const settings = { max_locks_per_transaction: 256, shared_preload_libraries: "pg_stat_statements" };
const aim = { heldRatio: 1.5, connections: 10, bytes: 1_024, cpuShare: 0.02 };

export function manyLocks() {
  return withDatabase(settings, async (url) => ({ rounds, aim, held, ...(await manyHeld(url)) }));
}

/** Measures what ten thousand locks that refresh themselves cost while nothing else happens, and one more acquire beside them. */
async function manyHeld(url) {
  await withClient(url, (client) => client.query("create extension if not exists pg_stat_statements"));
  const pool = new pg.Pool({ connectionString: url, max: 20 });
  const [locker, empty] = [new PostgresLocker({ pool }), new PostgresLocker({ pool })];
  try {
    /** The median duration of an acquire, in milliseconds. */
    const acquire = async (locker) => {
      const times = [];
      for (let i = 0; i < 1_000; i += 1) {
        const start = performance.now();
        const lock = await locker.acquire(`one:${i % 10}`);
        times.push(performance.now() - start);
        await lock.release();
      }
      return percentile(sorted(times), 0.5);
    };
    await acquire(locker);
    const before = memory();
    const locks = await Promise.all(
      Array.from({ length: held }, (_, i) => locker.acquire(`held:${i}`, { ttl: "10s", autoRefresh: true })),
    );
    const bytes = (memory() - before) / held;
    // Two lockers: one that holds all the locks, and one that holds none.
    const lockers = { beside: locker, alone: empty };
    const acquires = await interleaved(rounds, ["alone", "beside"], (which) => acquire(lockers[which]));
    await empty.close();
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
      acquireMs: {
        alone: median(acquires.alone),
        beside: median(acquires.beside),
        ratio: medianRatio(acquires.beside, acquires.alone),
      },
      statementsPerSecond: asked / seconds,
      cpuShare: (user + system) / 1e6 / seconds,
    };
  } finally {
    await Promise.all([locker.close(), empty.close()]);
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
