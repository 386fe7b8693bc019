// The keys that the callers compete for: a few that everybody wants, and many that hardly anybody wants. Each key has its own range of TTLs,
// so that short and long TTLs occur together, and so that an unclaimed lock can be judged by its own key's limit.
import { between } from "./plan.mjs";

/** TTLs in milliseconds. The long ones are longer than any stall, and more than four times the others, so they share no session with them. */
const ordinary = { short: [500, 1_500], middle: [3_000, 5_000], long: [21_000, 25_000] };
/** TTLs with a grace: no TTL may exceed the grace, which must pass after each fault of the server. */
const graceful = { short: [500, 900], middle: [900, 1_500], long: [1_500, 2_000] };

/** Milliseconds for which nobody is granted a lock after the server has started again, with `--grace`. */
export const grace = 2_000;

/** The number of keys of each heat and TTL range. */
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

  /** Draws the index of one key. */
  one(random, heats = usual) {
    const places = this.#byHeat[heats[Math.floor(random() * heats.length)]];
    return places[Math.floor(random() * places.length)];
  }

  /** Draws the indexes of several different keys. */
  several(random, count, heats) {
    const places = new Set();
    while (places.size < count) places.add(this.one(random, heats));
    return [...places];
  }

  ttl(random, place) {
    return Math.round(between(random, this.#keys[place].ttls));
  }
}
