// Measures this process's own processor time for an acquire and a release, compared with a sketch that does the least possible.
import { withDatabase } from "./database.mjs";
import { shared } from "./peers/pg-locker.mjs";
import { sketch } from "./peers/sketch.mjs";
import { processorTime, rounds } from "./processor-time.mjs";

const cycles = 100_000;
const aim = { 64: 1.4, 1024: 1.5 };

export function processCpu() {
  return withDatabase({}, async (url) => {
    const crowds = [];
    for (const callers of Object.keys(aim).map(Number)) {
      const how = { url, callers, cycles, warmUp: cycles, cyclesOf, used };
      crowds.push(await processorTime({ sketch, library: shared }, how));
    }
    return { rounds, aim, crowds };
  });
}

function used() {
  const before = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(before);
    return user + system;
  };
}

/** Every cycle has a key of its own, as in an application with a lock for each customer. */
async function cyclesOf({ caller }, callers, count) {
  let next = 0;
  const one = async () => {
    while (next < count) {
      next += 1;
      await caller(`bench:process:${next}`)();
    }
  };
  await Promise.all(Array.from({ length: callers }, one));
}
