// Decides whether the run was right, from what the workers wrote down, what an observer saw in the server, and what was done
// to both. Nothing here does anything but compute. Times are milliseconds on the machine's monotonic clock.

/**
 * The beliefs of one life of a worker: each from the first to the last time that its lock answered `held` with true. One that
 * was cut short by a SIGKILL ends with its last line.
 */
export function claimsOf(worker, lines) {
  const claims = new Map();
  for (const [what, id, ...rest] of lines) {
    if (what === "got") {
      const [key, ttl, token, asked] = rest;
      const claim = { worker, key, ttl, token: BigInt(token), asked, start: undefined, end: undefined };
      claims.set(id, { ...claim, why: "cut short" });
    }
    const claim = claims.get(id);
    if (what === "held") {
      claim.start ??= rest[0];
      claim.end = rest[0];
    }
    if (what === "end") claim.why = rest[0];
  }
  return [...claims.values()].filter((claim) => claim.start !== undefined);
}

/** Every pair of beliefs in one key at the same time. */
export function overlapsOf(claims) {
  const overlaps = [];
  const open = new Map();
  for (const second of [...claims].sort((a, b) => a.start - b.start)) {
    const still = (open.get(second.key) ?? []).filter((first) => first.end > second.start);
    for (const first of still) {
      const milliseconds = Math.min(first.end, second.end) - second.start;
      // A belief seen only once is a moment: it counts, too.
      overlaps.push({ first, second, at: second.start, milliseconds });
    }
    open.set(second.key, [...still, second]);
  }
  return overlaps;
}

/**
 * What ended the session of a claim before `at`, if that was somebody else: an ending of its worker's sessions, or of all
 * (`worker` undefined), of the keys named or of all, on the server of a timeline or on any, that may have come between the
 * grant and `at`.
 *
 * The grant came after it was asked for, and at most a TTL before the belief. A claim whose release found the lock had its
 * session to the end; which is no good where its server was no longer the only primary (`beside`).
 */
export function endedByOthers(claim, at, endings) {
  const granted = Math.max(claim.asked, claim.start - claim.ttl);
  return endings.findLast(
    (ending) =>
      (ending.beside || claim.why !== "released") &&
      (ending.worker === undefined || ending.worker === claim.worker) &&
      (ending.keys === undefined || ending.keys.includes(claim.key)) &&
      (ending.timeline === undefined || ending.timeline === timelineOf(claim)) &&
      ending.at <= at &&
      ending.until >= granted,
  );
}

/**
 * The overlaps, each with the kind of ending that explains it and whether its holder heard of that before its TTL passed; and
 * what is wrong with them, as sentences. While no session is ended by others, each overlap is wrong.
 *
 * Where a primary is left for another, holders of the one refresh while the other grants. They do so until their server has
 * gone, and a TTL from then on is the longest that they may believe. Of two claims of one server, the other explains nothing.
 */
export function judgeOverlaps(claims, endings) {
  const wrong = [];
  const overlaps = overlapsOf(claims).map((overlap) => {
    // The one who believes wrongly is mostly the first; where the news of a grant came late, it is the second.
    const isOfOneServer = timelineOf(overlap.first) === timelineOf(overlap.second);
    const explaining = isOfOneServer ? endings.filter(({ beside }) => !beside) : endings;
    const candidates = [overlap.first, overlap.second].map((claim) => ({
      claim,
      ending: endedByOthers(claim, overlap.at, explaining),
    }));
    const { claim, ending } = candidates.find((each) => each.ending !== undefined) ?? {};
    const told = `${overlap.first.key}: ${tell(overlap.first)} and ${tell(overlap.second)} overlap for ${overlap.milliseconds.toFixed(1)} ms`;
    if (ending === undefined) wrong.push(told);
    else if (overlap.milliseconds - refreshed(overlap, ending) > claim.ttl)
      wrong.push(`${told}, longer than a TTL of ${claim.ttl} ms`);
    return { ...overlap, kind: ending?.kind, warned: claim?.why === "lost" };
  });
  return { overlaps, wrong };
}

/** Milliseconds of an overlap in which the server that was left may still have answered. */
const refreshed = ({ at }, { timeline, until }) => (timeline === undefined ? 0 : Math.max(0, until - at));

/** Of two holders of a key, the later one has the larger token; unless somebody else had ended a session in between. */
export function judgeTokens(claims, endings) {
  const wrong = [];
  const newest = new Map();
  for (const claim of [...claims].sort((a, b) => a.start - b.start)) {
    const before = newest.get(claim.key);
    if (before === undefined || claim.token > before.token) newest.set(claim.key, claim);
    else if (endedByOthers(claim, claim.start, endings) === undefined) {
      wrong.push(`${claim.key}: ${tell(claim)} has the token ${claim.token}, after ${before.token}`);
    }
  }
  return wrong;
}

/** The accepted writes, in the order in which they took effect, that carry a smaller token than one before of their key. */
export function staleWrites(writes) {
  const newest = new Map();
  const stale = [];
  for (const write of writes) {
    const token = BigInt(write.token);
    const before = newest.get(write.key) ?? 0n;
    if (token < before) stale.push(`${write.key}: ${token} was accepted after ${before}`);
    else newest.set(write.key, token);
  }
  return stale;
}

/** Writes that were refused while their holder believed, from before it was sent until after the answer: others had been let in. */
export function refusedInBelief(claims, puts, endings) {
  return puts.flatMap(({ worker, token, outcome, from, to }) => {
    if (outcome !== "refused") return [];
    const claim = claims.find((each) => each.worker === worker && each.token === token);
    if (claim === undefined || claim.start > from || claim.end < to) return [];
    if (endedByOthers(claim, to, endings) !== undefined) return [];
    return [`${claim.key}: a write of ${tell(claim)} was refused while it believed`];
  });
}

/**
 * Holds the claims against what the server said. A sample is `{ from, to, rows }`, with the times before and after it was
 * taken and a row `{ key, pid, worker }` for each lock that was granted; `worker` is undefined where its session was ending.
 *
 * A claim that spans a sample is in it, unless somebody else had ended the session.
 */
export function judgeClaims(claims, samples, endings) {
  let checks = 0;
  let excused = 0;
  const wrong = [];
  for (const claim of claims) {
    for (let at = firstAfter(samples, claim.start); at < samples.length; at += 1) {
      const sample = samples[at];
      if (sample.to > claim.end) break;
      checks += 1;
      const isThere = sample.rows.some(
        ({ key, worker }) => key === claim.key && (worker === undefined || worker === claim.worker),
      );
      if (isThere) continue;
      if (endedByOthers(claim, sample.to, endings) !== undefined) excused += 1;
      else wrong.push(`${claim.key}: ${tell(claim)} is not in the server's sample of ${stamp(sample.from)}`);
    }
  }
  return { checks, excused, wrong };
}

/**
 * A lock is in the server for no longer than `allowed` milliseconds without a claim of its worker. Answers the longest such
 * time, and what is wrong.
 */
export function judgeRows(claims, samples, allowed) {
  const byHolder = groups([...claims].sort((a, b) => a.start - b.start));
  const wrong = [];
  let longest = 0;
  let seen = new Map();
  for (const { from, to, rows } of samples) {
    const now = new Map();
    for (const row of rows) {
      const name = `${row.pid} ${row.key}`;
      const before = seen.get(name);
      const worker = row.worker ?? before?.worker;
      const own = byHolder.get(holderOf({ worker, key: row.key })) ?? [];
      if (own.some((claim) => claim.start <= to && claim.end >= from)) {
        now.set(name, { worker, since: undefined, told: false });
        continue;
      }
      // Claimed between two samples: the clock begins anew with the end of that claim.
      const last = own.findLast((claim) => claim.end < from)?.end ?? Number.NEGATIVE_INFINITY;
      const since = Math.max(before === undefined ? from : (before.since ?? last), last);
      const unclaimed = to - since;
      longest = Math.max(longest, unclaimed);
      const told = before?.told === true && before.since === since;
      if (unclaimed > allowed && !told) {
        wrong.push(
          `${row.key}: backend ${row.pid} of worker ${worker} has it, unclaimed since ${stamp(since)}, for more than ${allowed} ms`,
        );
      }
      now.set(name, { worker, since, told: told || unclaimed > allowed });
    }
    seen = now;
  }
  return { longest, wrong };
}

/**
 * For each fault that cost a holder its lock, the milliseconds from the fault to the next claim of the key by anyone. Faults
 * after which nobody came until the end of the run are left out.
 */
export function unavailability(claims, faults) {
  const cost = [];
  const ordered = [...claims].sort((a, b) => a.start - b.start);
  for (const fault of faults) {
    for (const claim of ordered) {
      const hit = fault.worker === undefined || fault.worker === claim.worker;
      // A killed holder's last line is a moment older than the fault.
      if (!hit || claim.why === "released" || claim.start > fault.at || claim.end < fault.at - 5) continue;
      const next = ordered.find((each) => each.key === claim.key && each.start > fault.at && each !== claim);
      if (next !== undefined) cost.push({ fault, key: claim.key, milliseconds: next.start - fault.at });
    }
  }
  return cost;
}

/** Why a run proves nothing: too little was done, or too little was done to it. */
export function voidBecause({ acquires, seconds, floor, faults, kinds, samples }) {
  const because = [];
  if (!(acquires / seconds >= floor)) {
    because.push(`${(acquires / seconds).toFixed(1)} acquires a second, and it takes ${floor}`);
  }
  for (const kind of kinds) {
    if (!faults.some((fault) => fault.kind === kind)) because.push(`no fault of the kind ${kind}`);
  }
  if (samples / seconds < floor) because.push(`${samples} samples in ${seconds.toFixed(0)} s`);
  return because;
}

/** Of the server that granted it: in the upper 16 bits of its token. */
const timelineOf = ({ token }) => Number(token >> 48n);

const holderOf = ({ worker, key }) => `${worker} ${key}`;

function groups(claims) {
  const by = new Map();
  for (const claim of claims) {
    const group = by.get(holderOf(claim));
    if (group === undefined) by.set(holderOf(claim), [claim]);
    else group.push(claim);
  }
  return by;
}

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

function tell({ worker, start, end, why }) {
  return `worker ${worker} (${stamp(start)} to ${stamp(end)}, ${why})`;
}
