// What a lock costs beside the two statements written by hand on the same pool, where nobody else wants it.
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";
import { withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";

const rounds = 5;
const aim = 1.15;
const scenarios = [
  { callers: 1, operations: 2_000, warmUp: 1_000 },
  { callers: 64, operations: 12_800, warmUp: 6_400 },
];

export function uncontended() {
  return withDatabase({}, async (url) => {
    const pool = new pg.Pool({ connectionString: url, max: 64 });
    pool.on("error", () => {});
    const locker = new PostgresLocker({ pool });
    try {
      const results = [];
      for (const scenario of scenarios) results.push(await measure({ pool, locker }, scenario));
      return { rounds, aim, scenarios: results };
    } finally {
      await locker.close();
      await pool.end();
    }
  });
}

async function measure({ pool, locker }, { callers, operations, warmUp }) {
  const kinds = {
    byHand: async ({ id }) => {
      const client = await pool.connect();
      try {
        await client.query("select pg_try_advisory_lock($1)", [id]);
        await client.query("select pg_advisory_unlock($1)", [id]);
      } finally {
        client.release();
      }
    },
    library: async ({ key }) => {
      const lock = await locker.acquire(key);
      await lock.release();
    },
  };
  for (const kind of Object.values(kinds)) await timesOf(kind, callers, warmUp);
  const times = await interleaved(rounds, ["byHand", "library"], (name) =>
    timesOf(kinds[name], callers, operations),
  );
  const summary = (share) => {
    const byHand = times.byHand.map((round) => percentile(round, share));
    const library = times.library.map((round) => percentile(round, share));
    return {
      byHandMs: median(byHand),
      libraryMs: median(library),
      ratio: medianRatio(library, byHand),
    };
  };
  return { callers, operationsPerRound: operations, p50: summary(0.5), p99: summary(0.99) };
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
  return sorted(times);
}
