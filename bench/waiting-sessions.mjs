// Measures how many waiting sessions are enough: one process waits for 16 keys that another process releases in any order. For each limit,
// it prints the time from the release to the grant, and the connections. `node bench/waiting-sessions.mjs` after `npm run build`.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { PostgresServer } from "../dist/testing/index.js";

const keys = Array.from({ length: 16 }, (_, i) => `key:${i}`);
const server = await PostgresServer.start({});
const admin = new pg.Client(server.url);
await admin.connect();

for (const maxWaitingSessions of [1, 2, 4, 8, 16]) {
  const pools = [1, 2].map(() => new pg.Pool({ connectionString: server.url, max: 5 }));
  const holder = new PostgresLocker({ pool: pools[0] });
  const waiter = new PostgresLocker({ pool: pools[1], maxWaitingSessions });
  const took = [];
  let connections = 0;
  for (let round = 0; round < 5; round += 1) {
    const held = await Promise.all(keys.map((key) => holder.acquire(key, { autoRefresh: true })));
    const grants = keys.map(async (key) => {
      const lock = await waiter.acquire(key, { wait: true });
      const at = performance.now();
      await delay(20); // the work under it
      await lock.release();
      return at;
    });
    await delay(800);
    const sql = "select count(*)::int as count from pg_stat_activity where backend_type = 'client backend'";
    connections = Math.max(connections, (await admin.query(sql)).rows[0].count - 1);
    const freed = [];
    for (const i of keys.map((_, i) => i).sort(() => Math.random() - 0.5)) {
      freed[i] = performance.now();
      await held[i].release();
      await delay(100);
    }
    for (const [i, at] of (await Promise.all(grants)).entries()) took.push(at - freed[i]);
  }
  took.sort((a, b) => a - b);
  const at = (share) => took[Math.floor(took.length * share)].toFixed(1);
  console.log(
    `limit ${maxWaitingSessions}: release to grant p50 ${at(0.5)} ms, p90 ${at(0.9)} ms; ${connections} connections`,
  );
  await holder.close();
  await waiter.close();
  for (const pool of pools) await pool.end();
}
await admin.end();
await server.stop();
