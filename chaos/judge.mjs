// Decides whether the run was right, from the workers' journals, the observer's samples of the server, and the injected faults. This file
// only computes. Times are milliseconds on the machine's monotonic clock.
//
// Everything is judged as it comes, so that an hour takes no more memory than a minute: claims in the order in which they began, each
// once it has ended, and the samples in between. history.mjs puts them in order.

/**
 * Returns the fault that may have ended the session of a claim from outside before `at`: an ending of its worker's sessions, or of all
 * sessions (`worker` undefined), on the server of one timeline or on any server, that may have come between the grant and `at`.
 *
 * The grant came after the request, and at most a TTL before the start of the claim. If a release found its lock, the session lived to the
 * end, which doesn't help if its server was no longer the only primary (`beside`).
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
 * Finds pairs of claims on one key that overlap, at least one of them exclusive. Reports each with the kind of fault that excuses it and
 * whether the holder learned of that before its TTL passed, and collects the wrong ones as sentences. While no session is ended from
 * outside, every overlap is wrong.
 *
 * After a switch to another primary, holders on the old one may refresh while the new one grants. They can do so until their server has
 * gone, and may rely on their locks for at most a TTL after that. That excuses nothing if one server granted both claims.
 */
export class Overlaps {
  wrong = [];
  #endings;
  #open = new Map();
  #onOverlap;

  /** @param onOverlap called with each overlap */
  constructor(endings, onOverlap = () => {}) {
    this.#endings = endings;
    this.#onOverlap = onOverlap;
  }

  claim(second) {
    // Claims that end before this one begins also end before every later one begins.
    const still = (this.#open.get(second.key) ?? []).filter((first) => first.end > second.start);
    for (const first of still) {
      if (first.mode === "shared" && second.mode === "shared") continue;
      const milliseconds = Math.min(first.end, second.end) - second.start;
      // A claim that was seen only once has no duration, but it counts too.
      this.#judge({ first, second, at: second.start, milliseconds });
    }
    still.push(second);
    this.#open.set(second.key, still);
  }

  #judge(overlap) {
    // Usually the first claim is the wrong one; if the answer with a grant came late, it is the second.
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

/** The milliseconds of an overlap during which the old primary may still have answered. */
const refreshed = ({ at }, { timeline, until }) => (timeline === undefined ? 0 : Math.max(0, until - at));

/**
 * Checks that the later of two holders of a key has the larger token, unless both are readers, or a session was ended from outside in
 * between.
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

/** Finds accepted writes with a smaller token than an earlier write of the same key. Takes writes in the order in which they took effect. */
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
 * Finds writes of a claim that were refused although the lock was held from before the sending until after the answer, so that somebody
 * else must have been let in.
 *
 * @returns what is wrong, as sentences
 */
export function refusedWhileClaimed(claim, endings) {
  return claim.refused.flatMap(({ from, to }) => {
    if (claim.start > from || claim.end < to) return [];
    if (endedByOthers(claim, to, endings) !== undefined) return [];
    return [`${claim.key}: a write of ${tell(claim)} was refused while it relied on its lock`];
  });
}

/**
 * Compares a claim with the server's samples. A sample is `{ from, to, rows }`, with the times before and after it was taken and, by key,
 * a list of `{ pid, worker, mode }`, one for each granted lock; `worker` is undefined if the session was ending.
 *
 * A claim must be in every sample that lies within it, unless its session was ended from outside.
 *
 * @param samples all samples that may lie within the claim, in order of time
 * @returns how many samples were checked, how many were excused, and what is wrong
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

/** Milliseconds between two samples, up to which a lock that is in both is taken to have been there all the time. */
const longestGap = 1_000;

/** Milliseconds by which an event loop is late; more is a stall. */
const longestLateness = 1_000;

/** How many times of lateness are kept for each worker: those of a minute or more. */
const manyLate = 2_000;

/**
 * Checks that no lock is in the server without a claim of its worker for longer than its key allows. Records the longest such time, and
 * what is wrong.
 */
export class Rows {
  longest = { milliseconds: 0, ofAllowed: 0 };
  wrong = [];
  #allowed;
  #holders = new Map();
  #seen = new Map();
  /** By worker, the latest times during which its event loop was late. */
  #late = new Map();
  /** When the last sample was over. */
  #until = Number.NEGATIVE_INFINITY;

  /** @param allowed the allowed milliseconds, by key */
  constructor(allowed) {
    this.#allowed = allowed;
  }

  /** Records a claim, or a time during which a lock may be in the server without one. To be called before every sample within it. */
  claim({ worker, key, start, end }) {
    const name = holderOf({ worker, key });
    const holder = this.#holders.get(name) ?? { spans: [], last: Number.NEGATIVE_INFINITY };
    holder.spans.push({ start, end });
    this.#holders.set(name, holder);
  }

  /**
   * Records a time during which a worker's event loop was late. A busy process gives back what has expired when it gets to it. Longer
   * stalls don't count, because the server ends the session then.
   */
  late({ worker, start, end }) {
    if (end - start > longestLateness) return;
    const spans = this.#late.get(worker) ?? [];
    spans.push({ start, end });
    if (spans.length > manyLate) spans.splice(0, manyLate / 2);
    this.#late.set(worker, spans);
  }

  #lateness(worker, { from, to }) {
    let milliseconds = 0;
    for (const { start, end } of this.#late.get(worker) ?? [])
      milliseconds += Math.max(Math.min(end, to) - Math.max(start, from), 0);
    return milliseconds;
  }

  sample({ from, to, rows }) {
    const seen = new Map();
    // Between two samples that are far apart, a lock may have been given back and taken again.
    const earlier = from - this.#until > longestGap ? new Map() : this.#seen;
    this.#until = to;
    for (const [key, held] of rows) {
      for (const { pid, worker: said, doing } of held) {
        const name = `${pid} ${key}`;
        const before = earlier.get(name);
        const worker = said ?? before?.worker;
        const { isClaimed, last } = this.#claimed({ worker, key }, { from, to });
        if (isClaimed) seen.set(name, { worker, since: undefined, told: false });
        // The lock was claimed between two samples, so the time counts anew.
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
    // Counts only the certain time: from the first sample with the unclaimed lock to the beginning of this sample, because it is unknown when
    // exactly the server answered.
    const isSame = before?.since !== undefined && last <= before.since;
    const since = isSame ? before.since : from;
    const milliseconds = from - since;
    const usual = this.#allowed(key);
    const allowed = milliseconds > usual ? usual + this.#lateness(worker, { from: since, to: from }) : usual;
    if (milliseconds > this.longest.milliseconds) this.longest = { ...this.longest, milliseconds };
    if (milliseconds / allowed > this.longest.ofAllowed) this.longest.ofAllowed = milliseconds / allowed;
    const told = isSame && before.told;
    if (milliseconds > allowed && !told) {
      this.wrong.push(
        `${key}: backend ${pid} of worker ${worker} has it, unclaimed since ${stamp(since)}, for more than ${allowed.toFixed(0)} ms (${doing})`,
      );
    }
    return { worker, since, told: told || milliseconds > allowed };
  }
}

/**
 * Checks that a process that stood still for longer than any statement's deadline still has a lock whose TTL is even longer.
 *
 * It judges claims that were requested after every earlier fault was over, and that ended before another fault hit their worker or the
 * server.
 */
export function lostByStall(claim, faults) {
  const stall = stallWithin(claim, faults);
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

/** Looks at the latest faults only: there are thousands in an hour, and a thousand claims a second. */
function stallWithin({ worker, start, end, ttl }, faults) {
  for (let place = faults.length - 1; place >= 0; place -= 1) {
    const fault = faults[place];
    if (fault.at < start - outOfOrder) return undefined;
    const isWithin = fault.at >= start && fault.at <= end && fault.until - fault.at < ttl / 2;
    if (isWithin && stalls.has(fault.kind) && fault.worker === worker) return fault;
  }
  return undefined;
}

/** Milliseconds by which one fault may stand before an earlier one in the list. */
const outOfOrder = 60_000;

/** The ways in which a holder ends a claim itself. */
const ended = new Set(["released", "committed"]);
const stalls = new Set(["stall-stop", "stall-block"]);
/** Milliseconds after which the end of a claim is certainly known. */
const settling = 50;

/**
 * Whether a committed transaction may be missing: because it was committed shortly before a failover and the standby had not received it,
 * or on the old primary afterwards.
 */
export function hasLostItsRow(claim, settled, endings) {
  return endings.some(
    ({ kind, at, until }) =>
      (kind === "failover" || kind === "promotion") && settled >= at - replicationLag && claim.start <= until,
  );
}

/** The milliseconds by which a standby may lag behind. */
const replicationLag = 2_000;

/**
 * Measures, for each fault that cost a holder its lock, the milliseconds from the fault to the next claim of the key by anyone. Faults
 * without a next claim in the run are left out.
 */
export class Unavailability {
  #faults;
  #waiting = new Map();
  #onCost;

  /** @param faults all faults known when a claim is judged @param onCost called with `{ fault, key, milliseconds }` for each */
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

/** Why a run proves nothing: too little work was done, or too few faults were injected. */
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
 * Whether the session of a claim lived to its end: its release found the lock, or its transaction was committed. The readers of a key on
 * one session share one lock in the server: while there is another reader, a release doesn't ask the server, so it proves nothing.
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
