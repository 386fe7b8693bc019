import { interleaved, median, medianRatio } from "./statistics.mjs";

/**
 * Measures the processor time of a cycle for several contenders, one after the other in each round. The first and the last are compared.
 *
 * @param contenders by name, each with `start()`; `library` is the last
 * @param options.used returns a function that returns the microseconds used since the call
 * @returns for each name, the median of its microseconds a cycle, and the ratio of the last to the first
 */
export async function processorTime(contenders, { url, callers, cycles, warmUp, cyclesOf, used }) {
  const names = Object.keys(contenders);
  const started = {};
  for (const name of names) started[name] = await contenders[name].start({ url, callers });
  const run = async (name) => {
    const since = await used();
    await cyclesOf(started[name], callers, cycles);
    return since() / cycles;
  };
  try {
    // A warm-up, which also opens every connection.
    for (const name of names) await cyclesOf(started[name], callers, warmUp);
    const us = await interleaved(rounds, names, run);
    return {
      callers,
      ...Object.fromEntries(names.map((name) => [`${name}Us`, median(us[name])])),
      ratio: medianRatio(us[names.at(-1)], us[names[0]]),
    };
  } finally {
    for (const each of Object.values(started)) await each.end();
  }
}

/** As many rounds are measured. */
export const rounds = 5;
