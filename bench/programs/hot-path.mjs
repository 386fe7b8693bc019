// Counts what an acquire and a release cost in the process. LIBRARY: the library, with one file for each module.
import { Session } from "node:inspector/promises";
import pg from "pg";

const { PostgresLocker } = await import(process.env.LIBRARY);
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 20 });
const locker = new PostgresLocker({ pool });
const inspector = new Session();
inspector.connect();

async function cycles(count, callers) {
  let next = 0;
  const call = async () => {
    while (next < count) await (await locker.acquire(`key ${next++}`)).release();
  };
  await Promise.all(Array.from({ length: callers }, call));
}

/** How often functions were entered since the last call, and in how many files. */
async function entered() {
  const { result } = await inspector.post("Profiler.takePreciseCoverage");
  const files = new Set();
  let functions = 0;
  for (const { url, functions: each } of result) {
    if (!url.startsWith(new URL(".", process.env.LIBRARY).href)) continue;
    for (const { functionName, ranges } of each) {
      // V8's initializers for a class's fields are no functions of the source.
      if (functionName === "<instance_members_initializer>" || ranges[0].count === 0) continue;
      functions += ranges[0].count;
      files.add(url);
    }
  }
  return { functions, files: files.size };
}

await cycles(100, 1);
const kept = await locker.acquire("kept");
await inspector.post("Profiler.enable");
await inspector.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
// A timer of the locker may ring in the middle of one, so several are counted.
const acquires = [];
const releases = [];
for (let round = 0; round < 5; round += 1) {
  await entered();
  const lock = await locker.acquire("counted");
  acquires.push(await entered());
  await lock.release();
  releases.push(await entered());
}
const least = (all) => all.reduce((one, other) => (other.functions < one.functions ? other : one));
const [acquire, release] = [acquires, releases].map(least);
await inspector.post("Profiler.stopPreciseCoverage");
await inspector.post("Profiler.disable");

await cycles(20_000, 64);
await inspector.post("HeapProfiler.startSampling", {
  samplingInterval: 4096,
  includeObjectsCollectedByMajorGC: true,
  includeObjectsCollectedByMinorGC: true,
});
await cycles(30_000, 64);
const { profile } = await inspector.post("HeapProfiler.stopSampling");
const sizeOf = ({ selfSize, children }) => children.reduce((sum, child) => sum + sizeOf(child), selfSize);
const bytes = Math.round(sizeOf(profile.head) / 30_000);

/** How many bytes stay in memory for each call of `make`. */
async function keptBytes(make) {
  const used = async () => {
    // What has just been answered may still be under way.
    await new Promise((resolve) => setTimeout(resolve, 100));
    await inspector.post("HeapProfiler.collectGarbage");
    return process.memoryUsage().heapUsed;
  };
  const before = await used();
  const made = await make(10_000);
  const each = Math.round(((await used()) - before) / 10_000);
  return { made, each };
}

const held = await keptBytes(async (count) => {
  const locks = [];
  for (let at = 0; at < count; at += 500) {
    const some = Array.from({ length: 500 }, (_, more) => locker.acquire(`held ${at + more}`));
    locks.push(...(await Promise.all(some)));
  }
  return locks;
});
await Promise.all(held.made.map((each) => each.release()));
const waiting = await keptBytes(async (count) =>
  Array.from({ length: count }, () => locker.acquire("kept", { wait: true })),
);
const ended = Promise.allSettled(waiting.made);
await kept.release();
await locker.close();
await ended;
await pool.end();
inspector.disconnect();
console.log(JSON.stringify({ acquire, release, bytes, heldLock: held.each, waiter: waiting.each }));
