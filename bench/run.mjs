// What a lock costs beside the two statements written by hand on the same pool: uncontended, interleaved, in one run.
import { writeFileSync } from "node:fs";
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";
import { PostgresServer } from "../dist/testing/index.js";

const rounds = 5;
const aim = 1.15;
const scenarios = [
  { callers: 1, operations: 2_000, warmUp: 1_000 },
  { callers: 64, operations: 12_800, warmUp: 6_400 },
];

const server = process.env.DATABASE_URL ? undefined : await PostgresServer.start();
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL || server?.url, max: 64 });
pool.on("error", () => {});
const locker = new PostgresLocker({ pool });

/** Acquire and release by the library. */
async function library({ key }) {
  const lock = await locker.acquire(key);
  await lock.release();
}

/** The same two statements by hand. */
async function byHand({ id }) {
  const client = await pool.connect();
  try {
    await client.query("select pg_try_advisory_lock($1)", [id]);
    await client.query("select pg_advisory_unlock($1)", [id]);
  } finally {
    client.release();
  }
}

try {
  const scenarioResults = [];
  for (const scenario of scenarios) scenarioResults.push(await measure(scenario));
  const { rows } = await pool.query("select current_setting('server_version') as version");
  report({
    node: process.versions.node,
    postgres: rows[0].version,
    platform: `${process.platform}-${process.arch}`,
    rounds,
    aim,
    scenarios: scenarioResults,
  });
} finally {
  await locker.close();
  await pool.end();
  await server?.[Symbol.asyncDispose]();
}

async function measure({ callers, operations, warmUp }) {
  const kinds = { byHand, library };
  for (const kind of Object.values(kinds)) await timesOf(kind, callers, warmUp);
  const perRound = { byHand: [], library: [] };
  for (let round = 0; round < rounds; round += 1) {
    // Each goes first in turn, so that neither always finds the warmer server.
    const order = round % 2 === 0 ? ["byHand", "library"] : ["library", "byHand"];
    for (const name of order) perRound[name].push(await timesOf(kinds[name], callers, operations));
  }
  const at = (name, share) => median(perRound[name].map((times) => percentile(times, share)));
  // Of each round its own ratio: what the machine does meanwhile, it does to both.
  const ratio = (share) =>
    median(
      perRound.library.map((times, i) => percentile(times, share) / percentile(perRound.byHand[i], share)),
    );
  return {
    callers,
    operationsPerRound: operations,
    p50: { byHandMs: at("byHand", 0.5), libraryMs: at("library", 0.5), ratio: ratio(0.5) },
    p99: { byHandMs: at("byHand", 0.99), libraryMs: at("library", 0.99), ratio: ratio(0.99) },
  };
}

/** Milliseconds of each operation, sorted; `callers` at a time, each with a key of its own. */
async function timesOf(operation, callers, operations) {
  const times = [];
  const caller = async (number) => {
    const key = `bench:${number}`;
    const id = lockId(0, key).toString();
    for (let i = 0; i < operations / callers; i += 1) {
      const start = performance.now();
      await operation({ key, id });
      times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, number) => caller(number)));
  return times.sort((a, b) => a - b);
}

function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

function median(values) {
  return percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

function report(results) {
  const row = (...cells) =>
    `| ${cells.map((cell, i) => (i < 2 ? cell.padEnd(9) : cell.padStart(9))).join(" | ")} |`;
  console.log(`acquire + release, uncontended · PostgreSQL ${results.postgres} · Node.js ${results.node}`);
  console.log(`medians of ${rounds} interleaved rounds\n`);
  console.log(row("callers", "", "by hand", "library", "ratio", "aim"));
  console.log(row("---", "---", "---:", "---:", "---:", "---:"));
  for (const { callers, p50, p99 } of results.scenarios) {
    const verdict = p50.ratio <= aim ? "met" : "missed";
    const cells = (m) => [`${m.byHandMs.toFixed(3)} ms`, `${m.libraryMs.toFixed(3)} ms`, m.ratio.toFixed(2)];
    console.log(row(String(callers), "p50", ...cells(p50), `${aim} ${verdict}`));
    console.log(row(String(callers), "p99", ...cells(p99), ""));
  }
  const rounded = JSON.stringify(results, (_, v) => (typeof v === "number" ? Number(v.toFixed(4)) : v), 2);
  writeFileSync(new URL("results.json", import.meta.url), `${rounded}\n`);
}
