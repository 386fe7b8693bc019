// Measures how long it takes from the call of release in one process until the acquire that waits in another process returns.
import { withChildren } from "./child.mjs";
import { withClient, withDatabase } from "./database.mjs";
import { interleaved, median, medianRatio, percentile, sorted } from "./statistics.mjs";
import { untilSeenWaiting } from "./ways-to-wait.mjs";

const rounds = 5;
const aim = { libraryMs: 1, ratio: 1.5 };
/** Turns that are not measured, at the start of each round, because connections may have to be opened in them. */
const warmUp = 10;
/**
 * The holder releases the lock some milliseconds after the other process was seen waiting: a fixed time, plus a random one. For polling,
 * the random time spans one interval between polls.
 */
const ways = {
  library: { handOvers: 120, asleep: 10, random: 5 },
  blocked: { handOvers: 120, asleep: 10, random: 5 },
  polling: { handOvers: 40, asleep: 10, random: 100 },
};

export function handOver() {
  return withDatabase({}, (url) =>
    withClient(url, (observer) =>
      withChildren(2, "hand-over-party.mjs", url, (pair) => measure(pair, observer)),
    ),
  );
}

async function measure(pair, observer) {
  const times = await interleaved(rounds, Object.keys(ways), (way) => timesOf(pair, observer, way));
  const summary = (share) => {
    const at = (way) => times[way].map((round) => percentile(round, share));
    return {
      blockedMs: median(at("blocked")),
      pollingMs: median(at("polling")),
      libraryMs: median(at("library")),
      ratio: medianRatio(at("library"), at("blocked")),
    };
  };
  const handOversPerRound = Object.fromEntries(
    Object.entries(ways).map(([way, { handOvers }]) => [way, handOvers]),
  );
  return { rounds, handOversPerRound, aim, p50: summary(0.5), p99: summary(0.99) };
}

/** The sorted durations of all hand-overs, in milliseconds. */
async function timesOf(pair, observer, way) {
  const { handOvers, asleep, random } = ways[way];
  const key = `bench:hand-over:${way}`;
  const times = [];
  let [holder, waiter] = pair;
  await holder.ask("startToAcquire", { way, key });
  await holder.ask("acquired");
  for (let i = 0; i < warmUp + handOvers; i += 1) {
    await waiter.ask("startToAcquire", { way, key });
    await untilSeenWaiting(observer, way, 1);
    const [released, acquired] = await Promise.all([
      holder.ask("release", { after: asleep + Math.random() * random }),
      waiter.ask("acquired"),
    ]);
    if (i >= warmUp) times.push(acquired - released);
    [holder, waiter] = [waiter, holder];
  }
  await holder.ask("release", { after: 0 });
  return sorted(times);
}
