// Measures this process's own processor time for an acquire and a release, compared with a sketch that does the least possible.
import { withDatabase } from "./database.mjs";
import { shared } from "./peers/pg-locker.mjs";
import { sketch } from "./peers/sketch.mjs";
import { interleaved, median, medianRatio } from "./statistics.mjs";

const rounds = 5;
const cycles = 100_000;
const aim = { 64: 1.4, 1024: 1.5 };

export function processCpu() {
  return withDatabase({}, async (url) => {
    const crowds = [];
    for (const callers of Object.keys(aim).map(Number)) crowds.push(await measure(url, callers));
    return { rounds, aim, crowds };
  });
}

async function measure(url, callers) {
  const contenders = { sketch, library: shared };
  const started = {};
  for (const [name, contender] of Object.entries(contenders)) started[name] = await contender.start({ url });
  const run = async (name) => {
    const before = process.cpuUsage();
    await cyclesOf(started[name], callers, cycles);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / cycles;
  };
  try {
    for (const each of Object.values(started)) await cyclesOf(each, callers, cycles);
    const us = await interleaved(rounds, Object.keys(contenders), run);
    return {
      callers,
      sketchUs: median(us.sketch),
      libraryUs: median(us.library),
      ratio: medianRatio(us.library, us.sketch),
    };
  } finally {
    for (const each of Object.values(started)) await each.end();
  }
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
