export function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

export function median(values) {
  return percentile(sorted(values), 0.5);
}

/** The median of the ratios of all rounds: other load during a round affects both values of its ratio. */
export function medianRatio(ours, theirs) {
  return median(ours.map((value, round) => value / theirs[round]));
}

export function sorted(values) {
  return [...values].sort((a, b) => a - b);
}

/**
 * Calls `measure` with each name in each round, and returns the results by name, one for each round. The names take turns at going first, so
 * that none always finds a warmer server.
 */
export async function interleaved(rounds, names, measure) {
  const perRound = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    const first = round % names.length;
    const order = [...names.slice(first), ...names.slice(0, first)];
    for (const name of order) perRound[name].push(await measure(name));
  }
  return perRound;
}

/** Milliseconds on the machine's monotonic clock, the same for every process. */
export function now() {
  return Number(process.hrtime.bigint()) / 1e6;
}
