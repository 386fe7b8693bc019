// All judges of a run, and the figures that they collect.
import {
  hasLostItsRow,
  judgeClaim,
  lostByStall,
  Overlaps,
  Rows,
  refusedWhileClaimed,
  StaleWrites,
  Tokens,
  Unavailability,
  // biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
} from "./judge.mjs";

/** A lock may be in the server without a claim for twice the longest TTL of its key plus this many milliseconds. */
const slack = 500;

export class Court {
  /** The number of claims by the way in which they ended, for each half. */
  claims = [new Map(), new Map()];
  transactions = 0;
  readers = 0;
  overlaps = [0, 0];
  /** The excused overlaps of the second half by their excuse: how many there were, and the longest in milliseconds. */
  explained = new Map();
  checks = 0;
  excused = 0;
  missing = 0;
  /** The number of locks that were held across a stall of their process. */
  keptOverStall = 0;
  unavailable = new Costs();
  rows;
  writes = new StaleWrites();
  half;
  #wrong = [];
  #overlaps;
  #tokens;
  #unavailability;
  /** The keys that somebody wants at any time. For other keys, the time of the next claim says nothing. */
  #hot;
  #cluster;
  #leftOpen = false;

  /** @param keys with the name, the heat and the TTLs of each @param half returns when the second half began */
  constructor({ keys, half }) {
    this.half = half;
    const longest = new Map(keys.map(({ name, ttls }) => [name, ttls[1]]));
    this.#hot = new Set(keys.filter(({ heat }) => heat === "hot").map(({ name }) => name));
    this.rows = new Rows((key) => 2 * longest.get(key) + slack);
  }

  /** @param cluster has `injected`, `endings` and `excuses`, as they come */
  hears(cluster) {
    this.#cluster = cluster;
    this.#overlaps = new Overlaps(cluster.excuses, (overlap) => this.#overlap(overlap));
    this.#tokens = new Tokens(cluster.excuses);
    this.#unavailability = new Unavailability(cluster.injected, (cost) => this.unavailable.add(cost));
  }

  get wrong() {
    const judges = [this.#overlaps, this.#tokens, this.rows, this.writes];
    return [...this.#wrong, ...judges.flatMap(({ wrong }) => wrong)];
  }

  /** Judges a claim. To be called in the order in which claims began. */
  claim(claim, samples) {
    const { endings, excuses, injected } = this.#cluster;
    const counts = this.claims[claim.start < this.half() ? 0 : 1];
    counts.set(claim.why, (counts.get(claim.why) ?? 0) + 1);
    if (claim.why === "committed") this.transactions += 1;
    if (claim.mode === "shared") this.readers += 1;
    this.#overlaps.claim(claim);
    this.#tokens.claim(claim);
    if (this.#hot.has(claim.key)) this.#unavailability.claim(claim);
    const { checks, excused, wrong } = judgeClaim(claim, samples, endings);
    this.checks += checks;
    this.excused += excused;
    this.missing += wrong.length;
    const { isKept, wrong: lost } = lostByStall(claim, injected);
    if (isKept) this.keptOverStall += 1;
    this.#wrong.push(...wrong, ...lost, ...refusedWhileClaimed(claim, excuses));
    this.rows.claim(claim);
  }

  /** Records a time during which a lock may be in the server without a claim. */
  span(span) {
    this.rows.claim(span);
  }

  /** Records a time during which a worker's event loop was late. */
  late(span) {
    this.rows.late(span);
  }

  /** Judges a sample. To be called once all claims that it may show are known. */
  sample(sample) {
    this.rows.sample(sample);
  }

  /** Compares what the caller and the database say about a transaction. */
  transaction({ claim, how, isThere, settled }) {
    const told = `${claim.key}: a transaction of worker ${claim.worker}`;
    if (how === "not committed" && isThere)
      this.#wrong.push(`${told} was committed, and its caller told otherwise`);
    if (how === "committed" && !isThere && !hasLostItsRow(claim, settled, this.#cluster.endings))
      this.#wrong.push(`${told} was not committed, and its caller told otherwise`);
  }

  /** Records that a transaction was committed although it had been left open. */
  leftOpen() {
    if (this.#leftOpen) return;
    this.#leftOpen = true;
    this.#wrong.push("what an application had left uncommitted on a client of the pool was committed");
  }

  /** Judges a write that the resource accepted. */
  write(row) {
    this.writes.write(row);
  }

  #overlap({ at, milliseconds, kind, warned }) {
    const second = at < this.half() ? 0 : 1;
    this.overlaps[second] += 1;
    if (second === 0) return;
    const name = `${kind ?? "unexplained"}, the holder ${warned ? "found out" : "relied on it to the end of its TTL"}`;
    const { times, longest } = this.explained.get(name) ?? { times: 0, longest: 0 };
    this.explained.set(name, { times: times + 1, longest: Math.max(longest, milliseconds) });
  }
}

/** Collects durations and computes their median to two digits, without keeping each value. */
class Costs {
  worst;
  #counts = new Map();
  #times = 0;

  add(cost) {
    if (cost.milliseconds > (this.worst?.milliseconds ?? 0)) this.worst = cost;
    const rounded = Number(cost.milliseconds.toPrecision(2));
    this.#counts.set(rounded, (this.#counts.get(rounded) ?? 0) + 1);
    this.#times += 1;
  }

  get median() {
    let seen = 0;
    for (const [milliseconds, times] of [...this.#counts].sort(([a], [b]) => a - b)) {
      seen += times;
      if (seen >= this.#times / 2) return milliseconds;
    }
    return 0;
  }
}
