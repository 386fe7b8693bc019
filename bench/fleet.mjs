// A hundred lockers, like a hundred processes, wait for one key. Measures what they send to the server while it is held, how long it takes
// from the release until all of them have had the lock, what their waits cost others, and how soon one of them gets it if its holder dies.
import { setTimeout as delay } from "node:timers/promises";
import { lockId } from "../dist/index.js";
import { withChildren } from "./child.mjs";
import { withClient, withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, now } from "./statistics.mjs";
import { connectionsOf, counted, untilSeenWaiting, waysToWait } from "./ways-to-wait.mjs";

const rounds = 5;
const processes = 4;
const lockersEach = 25;
const waiters = processes * lockersEach;
/** How long the lock is held, in milliseconds. The library's lockers ask again after each bound, so twice; blocked sessions send nothing. */
const holdMs = { blocked: 500, library: 10_000 };
const warmUpMs = 500;
const takeOvers = 30;
/** For how many milliseconds the oldest snapshot is sampled: a bit more than twice the bound of a wait. */
const horizonMs = 12_000;
/** The bound of one wait in the server, in milliseconds. */
const bound = 5_000;
const aim = {
  allThroughRatio: 2,
  roundTripsPerHandOver: 4,
  roundTripsPerSecond: 25,
  connections: 105,
  takeOverMs: 10,
  // The bound, plus the time that a busy machine needs to notice that it has passed.
  oldestSnapshotMs: 1.05 * bound,
  indexBuildMs: 2 * bound,
};
const settings = { max_connections: 400 };

export function fleet() {
  return withDatabase(settings, (url) =>
    withClient(url, (observer) =>
      withChildren(processes, "fleet-part.mjs", url, (parts) => measure(url, observer, parts)),
    ),
  );
}

async function measure(url, observer, parts) {
  const holders = { blocked: waysToWait.blocked(url, 1), library: waysToWait.library(url, 1) };
  const names = Object.keys(holders);
  const one = (way, milliseconds) => through({ way, holder: holders[way], observer, parts, milliseconds });
  try {
    for (const way of names) await one(way, warmUpMs);
    const perRound = await interleaved(rounds, names, (way) => one(way, holdMs[way]));
    const of = (way, what) => perRound[way].map((round) => round[what]);
    const both = (what) => ({ blocked: median(of("blocked", what)), library: median(of("library", what)) });
    const horizon = await cost({ holder: holders.library, observer, parts });
    for (const way of names) await takeOver(way, parts, observer);
    const times = await interleaved(takeOvers, names, (way) => takeOver(way, parts, observer));
    return {
      rounds,
      waiters,
      holdMs: holdMs.library,
      aim,
      roundTripsPerSecond: both("roundTripsPerSecond"),
      connections: both("connections"),
      allThroughMs: {
        ...both("allThroughMs"),
        ratio: medianRatio(of("library", "allThroughMs"), of("blocked", "allThroughMs")),
      },
      roundTripsPerHandOver: both("roundTripsPerHandOver"),
      takeOverMs: { blocked: median(times.blocked), library: median(times.library) },
      ...horizon,
    };
  } finally {
    await Promise.all(Object.values(holders).map((holder) => holder.end()));
  }
}

async function startAll({ way, key, parts, observer }) {
  await Promise.all(parts.map((part) => part.ask("startToWait", { way, key, lockers: lockersEach })));
  await untilSeenWaiting(observer, way, waiters);
}

async function through({ way, holder, observer, parts, milliseconds }) {
  const key = `bench:fleet:${way}`;
  const release = await holder.acquire(key);
  await startAll({ way, key, parts, observer });
  // By now the statements that begin the waits are over.
  await delay(500);
  const before = await roundTrips(parts);
  const start = now();
  await delay(milliseconds);
  const after = await roundTrips(parts);
  const connections = await connectionsOf(observer, way);
  const released = now();
  await release();
  const ends = await Promise.all(parts.map((part) => part.ask("through")));
  return {
    roundTripsPerSecond: ((after - before) / (released - start)) * 1_000,
    connections,
    allThroughMs: Math.max(...ends.flat()) - released,
    // The release of the last one hands nothing over.
    roundTripsPerHandOver: ((await roundTrips(parts)) - after - 1) / waiters,
  };
}

/** The round trips of all processes, including the holder's. */
async function roundTrips(parts) {
  const each = await Promise.all(parts.map((part) => part.ask("roundTrips")));
  return each.reduce((sum, one) => sum + one, counted.roundTrips);
}

/** Measures the age of the waiters' oldest snapshot, and how long an index build takes beside them, in milliseconds. */
async function cost({ holder, observer, parts }) {
  const key = "bench:fleet:cost";
  const release = await holder.acquire(key);
  await startAll({ way: "library", key, parts, observer });
  let oldestSnapshotMs = 0;
  const start = now();
  while (now() - start < horizonMs) {
    const { rows } = await observer.query(
      `select max(extract(epoch from clock_timestamp() - query_start))::float8 * 1000 as age from pg_stat_activity
        where backend_xmin is not null and pid <> pg_backend_pid()`,
    );
    oldestSnapshotMs = Math.max(oldestSnapshotMs, rows[0].age ?? 0);
    await delay(50);
  }
  await observer.query("create table indexed as select generate_series(1, 1000) as i");
  const building = now();
  await observer.query("create index concurrently on indexed (i)");
  const indexBuildMs = now() - building;
  await observer.query("drop table indexed");
  await release();
  await Promise.all(parts.map((part) => part.ask("through")));
  return { oldestSnapshotMs, indexBuildMs };
}

/** Measures the milliseconds from the end of the holder's session until a waiter in another process has the lock. */
async function takeOver(way, [holder, waiter], observer) {
  const key = `bench:take-over:${way}`;
  await holder.ask("startToAcquire", { way, key });
  await holder.ask("acquired");
  await waiter.ask("startToAcquire", { way, key });
  await untilSeenWaiting(observer, way, 1);
  await delay(20);
  const { rows } = await observer.query(
    `select pid from pg_locks where locktype = 'advisory' and granted
        and ((classid::bigint << 32) | objid::bigint) = $1`,
    [lockId(0, key).toString()],
  );
  const killed = now();
  await observer.query("select pg_terminate_backend($1)", [rows[0].pid]);
  const took = (await waiter.ask("acquired")) - killed;
  await waiter.ask("release");
  await holder.ask("forget");
  return took;
}
