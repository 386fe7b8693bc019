// Measures how long an acquire takes with other locks on its session, because the server walks all locks of a session at the end of each
// statement. The default of `maxLocksPerSession` is based on it. node bench/locks-per-session.mjs
import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";

const rounds = 9;
const acquires = 300;
const counts = [0, 250, 500, 1_000, 2_000, 4_000, 8_000];

await withDatabase({ max_locks_per_transaction: 1_024 }, async (url) => {
  const pool = new pg.Pool({ connectionString: url, max: counts.length });
  const lockers = new Map();
  for (const count of counts) {
    const locker = new PostgresLocker({ pool, maxLocksPerSession: 2 * count + 1 });
    lockers.set(count, locker);
    const keys = Array.from({ length: count }, (_, i) => `held:${count}:${i}`);
    await Promise.all(keys.map((key) => locker.acquire(key, { ttl: "1h" })));
  }
  const acquire = async (count) => {
    const times = [];
    for (let i = 0; i < acquires; i += 1) {
      const start = performance.now();
      const lock = await lockers.get(count).acquire(`one:${count}:${i % 10}`);
      times.push(performance.now() - start);
      await lock.release();
    }
    return percentile(sorted(times), 0.5);
  };
  for (const count of counts) await acquire(count);
  const measured = await interleaved(rounds, counts, acquire);
  for (const count of counts) {
    const ratio = medianRatio(measured[count], measured[0]).toFixed(2);
    console.log(`${count} beside it: ${median(measured[count]).toFixed(3)} ms, ${ratio} of that beside none`);
  }
  await Promise.all([...lockers.values()].map((locker) => locker.close()));
  await pool.end();
});
