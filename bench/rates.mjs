// Measures cycles of acquire and release, each caller on its own key: this library, its peers, and the baseline.
import { readFile } from "node:fs/promises";
import { withClient, withDatabase } from "./database.mjs";
import { advisoryLock } from "./peers/advisory-lock.mjs";
import { byHand } from "./peers/by-hand.mjs";
import { dedicated, shared } from "./peers/pg-locker.mjs";
import { pgMutexLock } from "./peers/pg-mutex-lock.mjs";
import { redlock } from "./peers/redlock.mjs";
import { redlockUniversal } from "./peers/redlock-universal.mjs";
import { verrou } from "./peers/verrou.mjs";
import { withRedis } from "./redis.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";

const rounds = 5;
/** How long one contender runs in one round, in milliseconds. */
const roundMs = 1_500;
const contenders = {
  shared,
  dedicated,
  byHand,
  advisoryLock,
  pgMutexLock,
  verrou,
  redlock,
  redlockUniversal,
};
const crowds = [1, 64, 1_024];
/** The aims by number of callers: ratios to the baseline and to `redlock`; for one caller, the ratio of the p50 of a cycle. */
const aim = { 1: { p50: 1 }, 64: { byHand: 12, redlock: 2.5 }, 1024: { byHand: 20, redlock: 4 } };

export function rates() {
  const settings = { max_connections: 200, max_locks_per_transaction: 256 };
  return withRedis((redisUrl) =>
    withDatabase(settings, async (url) => {
      const results = [];
      for (const callers of crowds) results.push(await measure({ url, redisUrl, callers }));
      return { rounds, aim, packages: await versions(), crowds: results };
    }),
  );
}

async function measure({ url, redisUrl, callers }) {
  const present = Object.entries(contenders).filter(([, { on }]) => on !== "Redis" || redisUrl !== undefined);
  const spareConnections = await spare(url);
  const started = {};
  for (const [name, contender] of present) {
    started[name] = await contender.start({ url, redisUrl, callers, spareConnections });
  }
  try {
    const names = Object.keys(started);
    const callersOf = (name) => started[name].callers ?? callers;
    const run = (name, ms) => cycles(started[name], callersOf(name), ms);
    for (const name of names) await run(name, roundMs / 2);
    const measured = await interleaved(rounds, names, (name) => run(name, roundMs));
    const of = (name, what) => measured[name].map((each) => each[what]);
    const row = (name) => ({
      title: contenders[name].title,
      on: contenders[name].on,
      callers: callersOf(name),
      note: started[name].note,
      connections: started[name].connections(),
      perSecond: median(of(name, "perSecond")),
      byHandRatio: medianRatio(of(name, "perSecond"), of("byHand", "perSecond")),
      redlockRatio: measured.redlock && medianRatio(of(name, "perSecond"), of("redlock", "perSecond")),
      p50Ms: median(of(name, "p50")),
      p50Ratio: medianRatio(of(name, "p50"), of("byHand", "p50")),
      p99Ms: median(of(name, "p99")),
    });
    return { callers, rows: Object.fromEntries(names.map((name) => [name, row(name)])) };
  } finally {
    for (const each of Object.values(started)) await each.end();
  }
}

/** Runs cycles for a number of milliseconds. Returns the cycles a second, and the duration of each in milliseconds. */
async function cycles({ caller }, callers, milliseconds) {
  const times = [];
  const start = performance.now();
  const one = async (number) => {
    const cycle = caller(`bench:${number}`);
    for (let now = start; now - start < milliseconds; ) {
      const began = performance.now();
      await cycle();
      now = performance.now();
      times.push(now - began);
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, number) => one(number)));
  const took = performance.now() - start;
  const ordered = sorted(times);
  return {
    perSecond: (times.length / took) * 1_000,
    p50: percentile(ordered, 0.5),
    p99: percentile(ordered, 0.99),
  };
}

/** How many more connections the server accepts besides those of the other contenders. */
async function spare(url) {
  const { rows } = await withClient(url, (client) =>
    client.query(
      `select current_setting('max_connections')::int
                - current_setting('superuser_reserved_connections')::int as connections`,
    ),
  );
  return rows[0].connections - 2 * 64 - 20;
}

/** The versions of the measured peers, by package. */
async function versions() {
  const named = Object.values(contenders).filter((contender) => contender.package !== undefined);
  const entries = named.map(async ({ package: name }) => {
    const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
    return [name, JSON.parse(await readFile(file, "utf8")).version];
  });
  return Object.fromEntries(await Promise.all(entries));
}
