// Decides whether the run was right, from what the workers wrote down, what an observer saw in the server, and what was done
// to both. Nothing here does anything but compute. Times are milliseconds on the machine's monotonic clock.
//
// Everything is judged as it comes, so that an hour takes no more memory than a minute: claims in the order in which they began, each
// when it has ended, and the samples in between. See history.mjs, which puts them in order.

/**
 * What ended the session of a claim before `at`, if that was somebody else: an ending of its worker's sessions, or of all
 * (`worker` undefined), on the server of a timeline or on any, that may have come between the grant and `at`.
 *
 * The grant came after it was asked for, and at most a TTL before the belief. A claim whose release found the lock had its
 * session to the end; which is no good where its server was no longer the only primary (`beside`).
 */
export function endedByOthers(claim, at, endings) {
  const granted = Math.max(claim.asked, claim.start - claim.ttl);
  return endings.findLast(
    (ending) =>
      (ending.beside || !hadItToTheEnd(claim)) &&
      (ending.worker === undefined || ending.worker === claim.worker) &&
      (ending.timeline === undefined || ending.timeline === claim.timeline) &&
      ending.at <= at &&
      ending.until >= granted,
  );
}

/**
 * The pairs of claims in one key at the same time, of which one at least is exclusive: each with the kind of ending that explains it
 * and whether its holder heard of that before its TTL passed; and what is wrong with them, as sentences. While no session is ended by
 * others, each overlap is wrong.
 *
 * Where a primary is left for another, holders of the one refresh while the other grants. They do so until their server has
 * gone, and a TTL from then on is the longest that they may believe. Of two claims of one server, the other explains nothing.
 */
export class Overlaps {
  wrong = [];
  #endings;
  #open = new Map();
  #onOverlap;

  /** @param onOverlap is given each */
  constructor(endings, onOverlap = () => {}) {
    this.#endings = endings;
    this.#onOverlap = onOverlap;
  }

  claim(second) {
    // Those that end before this one begins end before every later one.
    const still = (this.#open.get(second.key) ?? []).filter((first) => first.end > second.start);
    for (const first of still) {
      if (first.mode === "shared" && second.mode === "shared") continue;
      const milliseconds = Math.min(first.end, second.end) - second.start;
      // A belief seen only once is a moment: it counts, too.
      this.#judge({ first, second, at: second.start, milliseconds });
    }
    still.push(second);
    this.#open.set(second.key, still);
  }

  #judge(overlap) {
    // The one who believes wrongly is mostly the first; where the news of a grant came late, it is the second.
    const isOfOneServer = overlap.first.timeline === overlap.second.timeline;
    const explaining = isOfOneServer ? this.#endings.filter(({ beside }) => !beside) : this.#endings;
    const candidates = [overlap.first, overlap.second].map((claim) => ({
      claim,
      ending: endedByOthers(claim, overlap.at, explaining),
    }));
    const { claim, ending } = candidates.find((each) => each.ending !== undefined) ?? {};
    const told = `${overlap.first.key}: ${tell(overlap.first)} and ${tell(overlap.second)} overlap for ${overlap.milliseconds.toFixed(1)} ms`;
    if (ending === undefined) this.wrong.push(told);
    else if (overlap.milliseconds - refreshed(overlap, ending) > claim.ttl)
      this.wrong.push(`${told}, longer than a TTL of ${claim.ttl} ms`);
    this.#onOverlap({ ...overlap, kind: ending?.kind, warned: claim?.why === "lost" });
  }
}

/** Milliseconds of an overlap in which the server that was left may still have answered. */
const refreshed = ({ at }, { timeline, until }) => (timeline === undefined ? 0 : Math.max(0, until - at));

/**
 * Of two holders of a key, the later one has the larger token; unless both only read, or somebody else had ended a session in between.
 */
export class Tokens {
  wrong = [];
  #endings;
  #newest = new Map();

  constructor(endings) {
    this.#endings = endings;
  }

  claim(claim) {
    if (claim.token === undefined) return;
    let newest = this.#newest.get(claim.key);
    if (newest === undefined) {
      newest = { any: 0n, exclusive: 0n };
      this.#newest.set(claim.key, newest);
    }
    const before = claim.mode === "shared" ? newest.exclusive : newest.any;
    if (claim.token <= before && endedByOthers(claim, claim.start, this.#endings) === undefined)
      this.wrong.push(`${claim.key}: ${tell(claim)} has the token ${claim.token}, after ${before}`);
    if (claim.token > newest.any) newest.any = claim.token;
    if (claim.mode !== "shared" && claim.token > newest.exclusive) newest.exclusive = claim.token;
  }
}

/** The accepted writes, in the order in which they took effect, that carry a smaller token than one before of their key. */
export class StaleWrites {
  wrong = [];
  accepted = 0;
  #newest = new Map();

  write({ key, token: text }) {
    this.accepted += 1;
    const token = BigInt(text);
    const before = this.#newest.get(key) ?? 0n;
    if (token < before) this.wrong.push(`${key}: a stale write: ${token} was accepted after ${before}`);
    else this.#newest.set(key, token);
  }
}

/**
 * Writes that were refused while their holder believed, from before it was sent until after the answer: others had been let in.
 *
 * @returns what is wrong, as sentences
 */
export function refusedInBelief(claim, endings) {
  return claim.refused.flatMap(({ from, to }) => {
    if (claim.start > from || claim.end < to) return [];
    if (endedByOthers(claim, to, endings) !== undefined) return [];
    return [`${claim.key}: a write of ${tell(claim)} was refused while it believed`];
  });
}

/**
 * Holds a claim against what the server said. A sample is `{ from, to, rows }`, with the times before and after it was
 * taken and, by key, a list of `{ pid, worker, mode }`, one for each lock that was granted; `worker` is undefined where its session was
 * ending.
 *
 * A claim that spans a sample is in it, unless somebody else had ended the session.
 *
 * @param samples in the order of time, all that may lie within the claim
 * @returns how many were looked at, how many were excused, and what is wrong
 */
export function judgeClaim(claim, samples, endings) {
  let checks = 0;
  let excused = 0;
  const wrong = [];
  for (let at = firstAfter(samples, claim.start); at < samples.length; at += 1) {
    const sample = samples[at];
    if (sample.to > claim.end) break;
    checks += 1;
    const rows = sample.rows.get(claim.key) ?? [];
    const isThere = rows.some(
      ({ worker, mode }) => mode === claim.mode && (worker === undefined || worker === claim.worker),
    );
    if (isThere) continue;
    if (endedByOthers(claim, sample.to, endings) !== undefined) excused += 1;
    else wrong.push(`${claim.key}: ${tell(claim)} is not in the server's sample of ${stamp(sample.from)}`);
  }
  return { checks, excused, wrong };
}

/**
 * A lock is in the server for no longer than its key allows without a claim of its worker. Takes note of the longest such time, and
 * of what is wrong.
 */
export class Rows {
  longest = { milliseconds: 0, ofAllowed: 0 };
  wrong = [];
  #allowed;
  #holders = new Map();
  #seen = new Map();

  /** @param allowed milliseconds, by key */
  constructor(allowed) {
    this.#allowed = allowed;
  }

  /** A claim, or a time in which a lock may well be in the server without one. Before every sample that it may span. */
  claim({ worker, key, start, end }) {
    const name = holderOf({ worker, key });
    const holder = this.#holders.get(name) ?? { spans: [], last: Number.NEGATIVE_INFINITY };
    holder.spans.push({ start, end });
    this.#holders.set(name, holder);
  }

  sample({ from, to, rows }) {
    const seen = new Map();
    for (const [key, held] of rows) {
      for (const { pid, worker: said, doing } of held) {
        const name = `${pid} ${key}`;
        const before = this.#seen.get(name);
        const worker = said ?? before?.worker;
        const { isClaimed, last } = this.#claimed({ worker, key }, { from, to });
        if (isClaimed) seen.set(name, { worker, since: undefined, told: false });
        // Claimed between two samples: the clock begins anew.
        else seen.set(name, this.#unclaimed({ pid, key, worker, doing, from, last, before }));
      }
    }
    this.#seen = seen;
  }

  #claimed(whose, { from, to }) {
    const holder = this.#holders.get(holderOf(whose));
    if (holder === undefined) return { isClaimed: false, last: Number.NEGATIVE_INFINITY };
    holder.spans = holder.spans.filter(({ end }) => {
      if (end >= from) return true;
      holder.last = Math.max(holder.last, end);
      return false;
    });
    return { isClaimed: holder.spans.some(({ start }) => start <= to), last: holder.last };
  }

  #unclaimed({ pid, key, worker, doing, from, last, before }) {
    // Only what is sure: unclaimed from the first sample on that has it so, up to the beginning of this one, in which nobody looks at a
    // clock while the server answers.
    const isSame = before?.since !== undefined && last <= before.since;
    const since = isSame ? before.since : from;
    const milliseconds = from - since;
    const allowed = this.#allowed(key);
    if (milliseconds > this.longest.milliseconds) this.longest = { ...this.longest, milliseconds };
    if (milliseconds / allowed > this.longest.ofAllowed) this.longest.ofAllowed = milliseconds / allowed;
    const told = isSame && before.told;
    if (milliseconds > allowed && !told) {
      this.wrong.push(
        `${key}: backend ${pid} of worker ${worker} has it, unclaimed since ${stamp(since)}, for more than ${allowed} ms (${doing})`,
      );
    }
    return { worker, since, told: told || milliseconds > allowed };
  }
}

/**
 * A process that stood still for longer than any statement's deadline, with a lock whose TTL is longer still, has that lock afterwards.
 *
 * Judged are claims that were asked for after everything before the stall was over, and that ended before anything else was done to
 * their worker or the server.
 */
export function lostByStall(claim, faults) {
  const stall = faults.findLast(
    ({ kind, worker, at, until }) =>
      stalls.has(kind) &&
      worker === claim.worker &&
      at >= claim.start &&
      at <= claim.end &&
      until - at < claim.ttl / 2,
  );
  if (stall === undefined) return { isKept: false, wrong: [] };
  if (claim.end >= stall.until) return { isKept: true, wrong: [] };
  const others = faults.filter(
    (fault) =>
      fault !== stall &&
      (fault.worker === undefined || fault.worker === claim.worker) &&
      fault.until >= claim.asked &&
      fault.at <= Math.max(claim.end, stall.until) + settling,
  );
  if (ended.has(claim.why) || others.length > 0) return { isKept: false, wrong: [] };
  const lasted = `${(stall.until - stall.at).toFixed(0)} ms`;
  return {
    isKept: false,
    wrong: [`${claim.key}: ${tell(claim)} was lost by a stall of ${lasted}, with a TTL of ${claim.ttl} ms`],
  };
}

/** By choice. */
const ended = new Set(["released", "committed"]);
const stalls = new Set(["stall-stop", "stall-block"]);
/** Milliseconds after which the end of a claim is surely known. */
const settling = 50;

/**
 * Whether what a transaction committed may be missing: it was committed shortly before a failover, and the standby had not heard of it,
 * or on the old primary afterwards.
 */
export function hasLostItsRow(claim, settled, endings) {
  return endings.some(
    ({ kind, at, until }) =>
      (kind === "failover" || kind === "promotion") && settled >= at - replicationLag && claim.start <= until,
  );
}

/** Milliseconds that a standby may be behind. */
const replicationLag = 2_000;

/**
 * For each fault that cost a holder its lock, the milliseconds from the fault to the next claim of the key by anyone. Faults
 * after which nobody came until the end of the run are left out.
 */
export class Unavailability {
  #faults;
  #waiting = new Map();
  #onCost;

  /** @param faults all that are known when a claim is judged @param onCost is given `{ fault, key, milliseconds }` of each */
  constructor(faults, onCost) {
    this.#faults = faults;
    this.#onCost = onCost;
  }

  claim(claim) {
    const waiting = this.#waiting.get(claim.key) ?? [];
    const left = waiting.filter((fault) => {
      if (claim.start <= fault.at) return true;
      this.#onCost({ fault, key: claim.key, milliseconds: claim.start - fault.at });
      return false;
    });
    if (!hadItToTheEnd(claim)) {
      for (let at = this.#faults.length - 1; at >= 0; at -= 1) {
        const fault = this.#faults[at];
        if (fault.until < claim.start) break;
        const hit = fault.worker === undefined || fault.worker === claim.worker;
        // A killed holder's last line is a moment older than the fault.
        if (hit && claim.start <= fault.at && claim.end >= fault.at - 5) left.push(fault);
      }
    }
    this.#waiting.set(claim.key, left);
  }
}

/** Why a run proves nothing: too little was done, or too little was done to it. */
export function voidBecause({ acquires, seconds, floor, faults, kinds, samples, did, ways }) {
  const because = [];
  if (!(acquires / seconds >= floor)) {
    because.push(`${(acquires / seconds).toFixed(1)} acquires a second, and it takes ${floor}`);
  }
  for (const kind of kinds) {
    if (!faults.has(kind)) because.push(`no fault of the kind ${kind}`);
  }
  for (const way of ways) if (!did.has(way)) because.push(`nobody came to ${way}`);
  if (samples / seconds < 2) because.push(`${samples} samples in ${seconds.toFixed(0)} s`);
  return because;
}

/**
 * Whether the session of a claim lived on: its release found the lock, or its transaction was committed. The readers of a key on one
 * session have one lock in the server: as long as there is another, a release is counted off, and the server isn't asked.
 */
const hadItToTheEnd = ({ why, mode }) => why === "committed" || (why === "released" && mode !== "shared");

const holderOf = ({ worker, key }) => `${worker} ${key}`;

/** The first sample that began at or after a time. */
function firstAfter(samples, time) {
  let low = 0;
  let high = samples.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (samples[middle].from < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

const stamp = (time) => `${time.toFixed(1)} ms`;

function tell({ worker, start, end, why, mode }) {
  return `${mode === "shared" ? "reader" : "worker"} ${worker} (${stamp(start)} to ${stamp(end)}, ${why})`;
}
