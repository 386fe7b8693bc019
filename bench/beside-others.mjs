// Three processes compete for one key without a pause, each with some work under the lock. Measures the share of turns of one process that
// uses the library, beside two that wait inside the server, as the Go package's WithLock does; for comparison, its share if it also waits
// by hand.
import { withChildren } from "./child.mjs";
import { withDatabase } from "./database.mjs";
import { interleaved, median, now } from "./statistics.mjs";

const rounds = 3;
const roundMs = 4_000;
const warmUpMs = 500;
const workMs = 5;
const aim = { share: 0.3 };

export function besideOthers() {
  return withDatabase({}, (url) =>
    withChildren(3, "loop.mjs", url, async (parts) => {
      const run = async (way, milliseconds) => {
        const until = now() + milliseconds;
        const key = `bench:beside-others:${way}`;
        const counts = await Promise.all(
          parts.map((part, number) =>
            part.ask("loop", { way: number === 0 ? way : "blocked", key, workMs, until }),
          ),
        );
        return counts[0] / counts.reduce((sum, count) => sum + count, 0);
      };
      const names = ["blocked", "library"];
      for (const way of names) await run(way, warmUpMs);
      const shares = await interleaved(rounds, names, (way) => run(way, roundMs));
      return {
        rounds,
        aim,
        workMs,
        share: { blocked: median(shares.blocked), library: median(shares.library) },
      };
    }),
  );
}
