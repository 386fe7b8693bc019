// Measures the server's processor time for an acquire and a release that nobody waits for, compared with a try-lock and an unlock by hand.
import { withClient, withDatabase } from "./database.mjs";
import { byHand } from "./peers/by-hand.mjs";
import { shared } from "./peers/pg-locker.mjs";
import { processorTime, rounds } from "./processor-time.mjs";
import { CpuWatch } from "./server-processes.mjs";

const cycles = { 1: 2_000, 64: 20_000 };

export function serverCpu() {
  return withDatabase({}, (url) =>
    withClient(url, async (observer) => {
      const used = async () => {
        const cpu = new CpuWatch(await backends(observer));
        return () => cpu.lap();
      };
      const crowds = [];
      for (const callers of Object.keys(cycles).map(Number)) {
        const how = { url, callers, cycles: cycles[callers], warmUp: cycles[callers] / 2, cyclesOf, used };
        crowds.push(await processorTime({ byHand, library: shared }, how));
      }
      return { rounds, crowds };
    }),
  );
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

/** The pids of the server's sessions, except the observer's. */
async function backends(observer) {
  const { rows } = await observer.query(
    "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
  );
  return rows.map(({ pid }) => pid);
}
