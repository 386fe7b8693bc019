// A hundred callers in four processes wait for one key, whose holder works for some seconds. Measures how many statements they send in that
// time, and how long it takes from the release until all of them have had the lock.
import { setTimeout as delay } from "node:timers/promises";
import { withChildren } from "./child.mjs";
import { withClient, withDatabase } from "./database.mjs";
import { statements } from "./statements.mjs";
import { interleaved, median, medianRatio, now } from "./statistics.mjs";
import { untilSeenWaiting, waysToWait } from "./ways-to-wait.mjs";

const rounds = 3;
const processes = 4;
const callersEach = 25;
/** How long the lock is held, in milliseconds. The library's callers ask again every 5 s, so twice; blocked sessions send nothing. */
const holdMs = { blocked: 500, library: 10_000 };
const warmUpMs = 500;
const aim = { statementsPerSecond: 20 };
/** Room for a hundred blocked sessions beside those of the library; the server counts statements. */
const settings = { max_connections: 150, shared_preload_libraries: "pg_stat_statements" };

export function crowd() {
  return withDatabase(settings, (url) =>
    withClient(url, (observer) =>
      withChildren(processes, "crowd-part.mjs", url, (parts) => measure(url, observer, parts)),
    ),
  );
}

async function measure(url, observer, parts) {
  if (!process.env.DATABASE_URL) await observer.query("create extension pg_stat_statements");
  const holders = { blocked: waysToWait.blocked(url, 1), library: waysToWait.library(url, 1) };
  const hold = (way, milliseconds) => crowdOf({ way, holder: holders[way], observer, parts, milliseconds });
  try {
    for (const way of Object.keys(holders)) await hold(way, warmUpMs);
    const perRound = await interleaved(rounds, Object.keys(holders), (way) => hold(way, holdMs[way]));
    const of = (way, what) => perRound[way].map((round) => round[what]);
    const both = (what) => ({ blocked: median(of("blocked", what)), library: median(of("library", what)) });
    return {
      rounds,
      processes,
      waiters: processes * callersEach,
      holdMs: holdMs.library,
      aim,
      statementsPerSecond: both("statementsPerSecond"),
      allThroughMs: {
        ...both("allThroughMs"),
        ratio: medianRatio(of("library", "allThroughMs"), of("blocked", "allThroughMs")),
      },
      statementsUntilThrough: both("statementsUntilThrough"),
    };
  } finally {
    await Promise.all(Object.values(holders).map((holder) => holder.end()));
  }
}

async function crowdOf({ way, holder, observer, parts, milliseconds }) {
  const key = `bench:crowd:${way}`;
  const release = await holder.acquire(key);
  await Promise.all(parts.map((part) => part.ask("startToWait", { way, key, callers: callersEach })));
  await untilSeenWaiting(observer, way, way === "blocked" ? processes * callersEach : processes);
  // By now the statements that begin the waits are over.
  await delay(500);
  const before = await statements(observer);
  const start = now();
  await delay(milliseconds);
  const after = await statements(observer);
  const released = now();
  await release();
  const through = await Promise.all(parts.map((part) => part.ask("through")));
  const allThroughMs = Math.max(...through.flat()) - released;
  return {
    statementsPerSecond: ((after - before) / (released - start)) * 1_000,
    allThroughMs,
    statementsUntilThrough: (await statements(observer)) - after,
  };
}
