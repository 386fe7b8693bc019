// Takes as many locks at once as its argument says, and releases them at once. Says how long each took, how long the calls alone took, and
// for how long the event loop was blocked meanwhile, in milliseconds.
import { monitorEventLoopDelay } from "node:perf_hooks";
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const count = Number(process.argv[2]);
const shared = process.argv[3] === "signal" ? new AbortController().signal : undefined;
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 20 });
const locker = new PostgresLocker({ pool, maxLocksPerSession: 100_000 });
await (await locker.acquire("before")).release();
const delay = monitorEventLoopDelay({ resolution: 10 });

async function measured(work) {
  // The monitor must take its first sample before what it watches.
  delay.reset();
  delay.enable();
  await new Promise((resolve) => setTimeout(resolve, 50));
  const start = performance.now();
  const calls = work();
  const calling = performance.now() - start;
  const made = await calls;
  const took = performance.now() - start;
  await new Promise((resolve) => setTimeout(resolve, 50));
  delay.disable();
  return {
    made,
    told: { calling: Math.round(calling), took: Math.round(took), longest: Math.round(delay.max / 1e6) },
  };
}

const options = { ttl: "10m", ...(shared && { signal: shared, wait: "10m" }) };
const acquired = await measured(() =>
  Promise.all(Array.from({ length: count }, (_, at) => locker.acquire(`many:${at}`, options))),
);
const held = acquired.made.filter((lock) => lock.held).length;
const released = await measured(() => Promise.all(acquired.made.map((lock) => lock.release())));
console.log(JSON.stringify({ held, acquired: acquired.told, released: released.told }));
await locker.close();
await pool.end();
