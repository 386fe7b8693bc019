// Takes and gives back a lock many times, in the way of its first argument, and says how many of the handles are still in memory while
// the locker lives. Needs --expose-gc.
import { setTimeout as pause } from "node:timers/promises";
import pg from "pg";
import { MemoryLocker, PostgresLocker } from "../../../dist/index.js";

const [way, key] = process.argv.slice(2);
const connectionString = process.env.DATABASE_URL;
const rounds = 50;
const nothing = () => {};
const logger = { debug: nothing, info: nothing, warn: nothing, error: nothing };
const pool = new pg.Pool({ connectionString });
const client = new pg.Client({ connectionString });
await client.connect();
const postgres = (options) => new PostgresLocker({ pool, ...options });
const holder = postgres();

const ways = {
  "in memory": () => new MemoryLocker(),
  "in memory, with a logger": () => new MemoryLocker({ logger }),
  "on a shared session": () => postgres(),
  "on a shared session, with a logger": () => postgres({ logger }),
  "on a session of its own": () => postgres({ sessions: "dedicated" }),
  "after a wait": () => postgres(),
  "on a caller's client": () => postgres(),
  "as a permit": () => postgres(),
  "as a group": () => postgres(),
  "kept for a minimum time": () => postgres(),
};
const locker = ways[way]();

async function take() {
  if (way === "as a permit") return await locker.semaphore(key, 2).acquire();
  if (way === "as a group") return await locker.acquireAll([key, `${key} too`]);
  if (way === "on a caller's client") return await locker.acquire(key, { client });
  if (way === "kept for a minimum time") return await locker.acquire(key, { holdAtLeast: 5, wait: "10s" });
  if (way !== "after a wait") return await locker.acquire(key);
  const held = await holder.acquire(key);
  const waiting = locker.acquire(key, { wait: "10s" });
  await pause(5);
  await held.release();
  return await waiting;
}

const left = [];
for (let round = 0; round < rounds; round += 1) {
  const lock = await take();
  // What a listener refers to lives as long as the signal does.
  lock.signal.addEventListener("abort", () => console.log(round));
  left.push(new WeakRef(lock.signal));
  await lock.release();
}
for (let turn = 0; turn < 5; turn += 1) {
  await pause(20);
  globalThis.gc();
}
console.log(JSON.stringify({ left: left.filter((each) => each.deref() !== undefined).length }));
await Promise.all([locker.close(), holder.close()]);
await Promise.all([pool.end(), client.end()]);
