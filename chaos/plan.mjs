// The plan: which faults are injected where and when. All of it follows from the seed. This file only computes.

/** Faults of the holders' own processes and links. None of them ends a session while its holder still relies on it. */
export const ownFaults = {
  kill: { does: "SIGKILL of a worker; another takes its place", lasts: [100, 600] },
  "stop-short": { does: "SIGSTOP for less than any TTL, then SIGCONT", lasts: [50, 450] },
  "stop-long": { does: "SIGSTOP for more than a short TTL, then SIGCONT", lasts: [1_600, 2_400] },
  block: { does: "a blocked event loop that keeps reading `held`", lasts: [100, 1_500] },
  "stall-stop": { does: "SIGSTOP for more than a statement's deadline of 5 s", lasts: [5_200, 7_000] },
  "stall-block": { does: "an event loop blocked for more than 5 s", lasts: [5_200, 7_000] },
  "hole-both": { does: "a black hole, both ways", lasts: [200, 1_500] },
  "hole-up": { does: "a black hole towards the server", lasts: [200, 1_500] },
  "hole-down": { does: "a black hole towards the worker", lasts: [200, 1_500] },
  latency: { does: "latency each way", lasts: [600, 2_000], amount: [5, 300] },
  "half-close": { does: "a FIN to the worker on each of its connections", lasts: [0, 0] },
  reset: { does: "a RST to the worker; the server isn't told", lasts: [0, 0] },
  vanish: { does: "a host that vanishes, and is replaced by another", lasts: [600, 1_200] },
  "clock-forward": { does: "the wall clock set forward", lasts: [0, 0], amount: [50, 3_600_000] },
  "clock-back": { does: "the wall clock set back", lasts: [0, 0], amount: [50, 3_600_000] },
};

/** Faults that end the sessions of one worker from outside. */
export const sessionFaults = {
  terminate: { does: "pg_terminate_backend of a worker's holders", lasts: [0, 0] },
  "terminate-in-hole": { does: "the same, while the worker is in a black hole", lasts: [300, 1_200] },
  "reset-both": { does: "a RST to the worker and to the server", lasts: [0, 0] },
  "half-close-server": { does: "a FIN to the server on each of a worker's connections", lasts: [0, 0] },
};

/** Faults that end the sessions of the one worker that goes through a pooler: see `pooledOf`. */
export const poolerFaults = {
  "pooler-kill": { does: "SIGKILL of a worker's PgBouncer; another takes its place", lasts: [0, 0] },
};

/** Faults that end all sessions at once. */
export const serverFaults = {
  restart: { does: "restart of the server, fast", lasts: [0, 0] },
  crash: { does: "crash of the server, immediate, and a new start", lasts: [0, 0] },
  "backend-kill": { does: "kill -9 of a backend, for which the server restarts all", lasts: [0, 0] },
  "crash-in-hole": {
    does: "a crash and a new start, while half of the workers are cut off",
    lasts: [800, 1_800],
  },
  promotion: { does: "the primary stopped, and its standby promoted", lasts: [0, 0] },
  failover: { does: "a standby promoted, and the old primary stopped later", lasts: [400, 1_500] },
};

export const faultKinds = { ...ownFaults, ...sessionFaults, ...poolerFaults, ...serverFaults };

/**
 * The faults after which, with a grace, nobody holds a lock beside an earlier holder: they reset the server's locks, and no old primary goes
 * on. The other faults end one session while its server goes on.
 */
export const coveredByGrace = new Set(["restart", "crash", "backend-kill", "crash-in-hole", "promotion"]);

/** The worker that goes through the pooler, if there is one. */
export const pooledOf = (workers) => workers;

/** Milliseconds without faults at the end, so that any lock that is left has leaked. */
const calm = 2_000;

/** A small generator of pseudo-random numbers from 0 to 1, determined by the seed (mulberry32). */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function between(random, [least, most]) {
  return least + random() * (most - least);
}

/**
 * The faults of a run in the order in which they begin, each with its time in milliseconds from the start of the run. The first half has
 * only those of `ownFaults`; the second half has the others too.
 *
 * @param grace milliseconds that have to pass after each fault of the server
 */
export function planOf({ seed, minutes, workers, grace = 0 }) {
  const length = minutes * 60_000;
  const half = length / 2;
  const faults = [];
  const isShort = minutes < 3;
  for (let worker = 1; worker <= workers; worker += 1) {
    const random = randomOf(seed + 7_919 * worker);
    const gaps = isShort ? [150, 600] : [800, 4_000];
    const own = Object.keys(ownFaults).filter((kind) => !stalls.includes(kind));
    const first = (deal) => [...stallsOf(worker, deal), ...shuffled(random, own)];
    const second = (deal) => [
      ...stallsOf(worker, deal + 1),
      ...shuffled(random, [...Object.keys(sessionFaults), ...shuffled(random, own).slice(0, 6)]),
    ];
    fill({ random, faults, from: 300, to: half, kinds: first, gaps, worker, end: length - calm });
    fill({ random, faults, from: half, to: length, kinds: second, gaps, worker, end: length - calm });
  }
  const pooler = {
    random: randomOf(seed + 7_919 * (workers + 1)),
    kinds: () => Object.keys(poolerFaults),
    gaps: [2_000, 6_000],
    worker: pooledOf(workers),
  };
  fill({ ...pooler, faults, from: half, to: length, end: length - calm });
  const random = randomOf(seed);
  const kinds = () => shuffled(random, Object.keys(serverFaults));
  // A start of the server takes about a second, and a run of half a minute must include each kind.
  const gaps = isShort ? [1_000, Math.min(4_000, (half - calm) / 9)] : [4_000, 14_000];
  const apart = gaps.map((gap) => gap + grace);
  fill({ random, faults, from: half, to: length, kinds, gaps: apart, worker: undefined, end: length - calm });
  return { length, half, faults: faults.sort((a, b) => a.at - b.at) };
}

const stalls = ["stall-stop", "stall-block"];

/** Stalls take as long as all other faults together, so only every fourth deal of a worker has one; the first two workers begin with one. */
function stallsOf(worker, deal) {
  if (deal % 4 !== (worker <= 2 ? 0 : 2)) return [];
  return [stalls[(worker + Math.floor(deal / 4)) % 2]];
}

/** Deals the kinds like cards: each occurs once before any occurs again. */
function fill({ random, faults, from, to, kinds, gaps, worker, end }) {
  let at = from;
  for (let deal = 0; ; deal += 1) {
    for (const kind of kinds(deal)) {
      const { lasts, amount } = faultKinds[kind];
      const fault = { at: at + between(random, gaps), kind, worker, lasts: between(random, lasts) };
      if (amount !== undefined) fault.amount = between(random, amount);
      at = fault.at + fault.lasts;
      if (fault.at >= to || at > end) return;
      faults.push(fault);
    }
  }
}

function shuffled(random, kinds) {
  const cards = [...kinds];
  for (let last = cards.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [cards[last], cards[other]] = [cards[other], cards[last]];
  }
  return cards;
}
