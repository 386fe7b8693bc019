// What an acquire and a release that nobody waits for cost the server's processors, against a try-lock and an unlock by hand.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { withClient, withDatabase } from "./database.mjs";
import { byHand } from "./peers/by-hand.mjs";
import { shared } from "./peers/pg-locker.mjs";
import { interleaved, median, medianRatio } from "./statistics.mjs";

const rounds = 5;
const cycles = { 1: 5_000, 64: 30_000 };

export function serverCpu() {
  return withDatabase({}, (url) =>
    withClient(url, async (observer) => {
      const crowds = [];
      for (const callers of Object.keys(cycles).map(Number))
        crowds.push(await measure({ url, observer, callers }));
      return { rounds, crowds };
    }),
  );
}

async function measure({ url, observer, callers }) {
  const contenders = { byHand, library: shared };
  const started = {};
  for (const [name, contender] of Object.entries(contenders))
    started[name] = await contender.start({ url, callers });
  const run = async (name) => {
    const pids = await backends(observer);
    const before = microseconds(pids);
    await cyclesOf(started[name], callers, cycles[callers]);
    return (microseconds(pids) - before) / cycles[callers];
  };
  try {
    // And so every connection is there.
    for (const name of Object.keys(contenders)) await cyclesOf(started[name], callers, cycles[callers] / 2);
    const us = await interleaved(rounds, Object.keys(contenders), run);
    return {
      callers,
      byHandUs: median(us.byHand),
      libraryUs: median(us.library),
      ratio: medianRatio(us.library, us.byHand),
    };
  } finally {
    for (const each of Object.values(started)) await each.end();
  }
}

async function cyclesOf({ caller }, callers, count) {
  let left = count;
  const one = async (number) => {
    const cycle = caller(`bench:cpu:${number}`);
    while (left > 0) {
      left -= 1;
      await cycle();
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, number) => one(number)));
}

/** The processes of the server's sessions, but for the observer's. */
async function backends(observer) {
  const { rows } = await observer.query(
    "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
  );
  return rows.map(({ pid }) => pid);
}

const ticksPerSecond =
  process.platform === "linux" ? Number(execFileSync("getconf", ["CLK_TCK"])) : Number.NaN;

/** What processes have used of the processors until now. NaN where it can't be read: not on Linux, or on another machine. */
function microseconds(pids) {
  try {
    const ticks = pids.map((pid) => {
      const text = readFileSync(`/proc/${pid}/stat`, "utf8");
      // The name, in parentheses, may have blanks.
      const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
      return Number(fields[11]) + Number(fields[12]);
    });
    return (ticks.reduce((sum, each) => sum + each, 0) / ticksPerSecond) * 1e6;
  } catch {
    return Number.NaN;
  }
}
