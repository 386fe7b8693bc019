// The keys that the callers compete for: a few that everybody wants, and many that hardly anybody does. Each has a range of TTLs of its
// own, so that short and long ones stand side by side, and so that a lock which nobody claims can be held against its own bound.
import { between } from "./plan.mjs";

/** Milliseconds. The last one is longer than any stall, and more than four times as long as the others, with which it shares no session. */
const ordinary = { short: [500, 1_500], middle: [3_000, 5_000], long: [21_000, 25_000] };
/** With a grace, which no TTL may exceed, and which has to pass after each fault of the server. */
const graceful = { short: [500, 900], middle: [900, 1_500], long: [1_500, 2_000] };

/** Milliseconds for which nobody is granted a lock after the server has started again, with `--grace`. */
export const grace = 2_000;

/** How many keys there are of each heat and sort. */
const counts = {
  hot: { short: 6, middle: 2 },
  warm: { short: 16, middle: 16, long: 16 },
  cold: { short: 500, middle: 2_000, long: 3_500 },
};

export function keysOf({ isGraceful }) {
  const ttls = isGraceful ? graceful : ordinary;
  return Object.entries(counts).flatMap(([heat, sorts]) =>
    Object.entries(sorts).flatMap(([sort, count]) =>
      Array.from({ length: count }, (_, at) => ({
        name: `${heat} ${sort} ${at}`,
        heat,
        sort,
        ttls: ttls[sort],
      })),
    ),
  );
}

const usual = ["hot", "warm", "warm", ...Array(7).fill("cold")];

/** Draws keys by their heat: of ten draws, about one is hot, two are warm and seven are cold. */
export class Draw {
  #keys;
  #byHeat;

  constructor(keys) {
    this.#keys = keys;
    this.#byHeat = { hot: [], warm: [], cold: [] };
    for (const [place, { heat }] of keys.entries()) this.#byHeat[heat].push(place);
  }

  /** The place of one of the keys. */
  one(random, heats = usual) {
    const places = this.#byHeat[heats[Math.floor(random() * heats.length)]];
    return places[Math.floor(random() * places.length)];
  }

  /** The places of several, all different. */
  several(random, count, heats) {
    const places = new Set();
    while (places.size < count) places.add(this.one(random, heats));
    return [...places];
  }

  ttl(random, place) {
    return Math.round(between(random, this.#keys[place].ttls));
  }
}
