// Measures how many times a second 64 callers of one process hand over one lock among themselves.

import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio } from "./statistics.mjs";
import { waysToWait } from "./ways-to-wait.mjs";

const rounds = 5;
const callers = 64;
const operations = 3_200;
const warmUp = 1_600;

export function callersOneKey() {
  return withDatabase({}, async (url) => {
    const blocked = waysToWait.blocked(url, callers);
    const pool = new pg.Pool({ connectionString: url });
    pool.on("error", () => {});
    const locker = new PostgresLocker({ pool });
    const kinds = {
      // As many sessions as callers, all but one of them blocked in the server.
      blocked: async () => {
        const release = await blocked.acquire("bench:callers:blocked");
        await release();
      },
      library: () => locker.withLock("bench:callers:library", () => {}, { wait: true }),
    };
    try {
      for (const kind of Object.values(kinds)) await perSecond(kind, warmUp);
      const perRound = await interleaved(rounds, ["blocked", "library"], (name) =>
        perSecond(kinds[name], operations),
      );
      return {
        rounds,
        callers,
        handOversPerRound: operations,
        perSecond: {
          blocked: median(perRound.blocked),
          library: median(perRound.library),
          ratio: medianRatio(perRound.library, perRound.blocked),
        },
      };
    } finally {
      await locker.close();
      await pool.end();
      await blocked.end();
    }
  });
}

/** Measures operations a second, from the first to the last. All callers repeat the operation until there were enough. */
async function perSecond(operation, wanted) {
  let started = 0;
  const caller = async () => {
    while (started < wanted) {
      started += 1;
      await operation();
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: callers }, caller));
  return (started / (performance.now() - start)) * 1_000;
}
