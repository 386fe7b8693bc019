// What a fleet of processes that all wait for locks would ask of its primaries: a simulation, because nobody here has ten thousand
// processes. It takes the costs that `node bench/one-primary.mjs` measured, and plays two things: a minute of waiting, and the
// minutes after a crash, when all of them connect again at once. For docs/scaling.md. node bench/simulated-fleet.mjs
import { percentile, sorted } from "./statistics.mjs";

/** Measured costs, see docs/scaling.md: microseconds of the server's processors, and bytes. */
const cost = {
  /** To end a wait of 5 s in the server and start it again. */
  wait: 430,
  /**
   * The deadlock check of each wait of more than `deadlock_timeout` (1 s), for each pair of waiters of the key. It locks the whole lock
   * table, so there is never more than one check at a time.
   */
  deadlockCheckEachPair: 0.018,
  /** To open a connection and its session. */
  connect: 3_300,
  /** To refuse a connection because `max_connections` is reached. */
  refuse: 640,
  connectionBytes: 1.7 * 2 ** 20,
};
/** The library's durations in milliseconds: the bounds of a wait in the server and of connecting, and the pauses after a fault. */
const library = { wait: 5_000, connect: 5_000, firstPause: 100, lastPause: 3_000 };
const cores = 16;

/** Simulates processes that each wait for one key and ask again after each 5 s. `deadlockTimeout` is in seconds. */
function minuteOfWaiting({ processes, keys, primaries = 1, deadlockTimeout = 1 }) {
  const here = Math.round(processes / primaries);
  const isChecked = deadlockTimeout * 1_000 < library.wait;
  const checkUs = isChecked ? cost.deadlockCheckEachPair * (processes / keys) ** 2 : 0;
  const server = new Server(cores);
  const lockTable = new Server(1);
  const end = 60_000;
  const late = [];
  const events = new Events();
  for (let i = 0; i < here; i += 1) events.add(Math.random() * library.wait, { i, doing: "ask" });
  for (let event = events.next(); event !== undefined && event.at < end; event = events.next()) {
    const { i, doing } = event.what;
    if (doing === "check") {
      const done = lockTable.serve(event.at, checkUs / 1_000);
      // Requests that come during the check wait for its end.
      late.push(done - event.at);
      events.add(Math.max(done, event.at + library.wait - deadlockTimeout * 1_000), { i, doing: "ask" });
    } else {
      const done = server.serve(event.at, cost.wait / 1_000);
      late.push(done - event.at);
      events.add(
        done + (isChecked ? deadlockTimeout * 1_000 : library.wait),
        isChecked ? { i, doing: "check" } : { i, doing: "ask" },
      );
    }
  }
  const waits = here / (library.wait / 1_000);
  const table = (waits * checkUs) / 1e6;
  return {
    processes,
    keys,
    primaries,
    "deadlock_timeout, s": deadlockTimeout,
    "connections each": here,
    "memory each, GB": ((here * cost.connectionBytes) / 2 ** 30).toFixed(1),
    "waits a second each": Math.round(waits),
    "cores busy each": ((waits * cost.wait) / 1e6 + Math.min(table, 1)).toFixed(2),
    "lock table busy": table > 1 ? "all the time" : `${(table * 100).toFixed(0)} %`,
    "late, p99 ms": percentile(sorted(late), 0.99).toFixed(1),
  };
}

/**
 * Simulates processes that lost their connections at once and connect again as the library does, while the primaries are down for 20 s.
 * Times count from when the primaries accept connections again. `room`: how many connections a primary allows.
 */
function afterCrash({ processes, primaries = 1, room = Number.POSITIVE_INFINITY }) {
  const here = Math.round(processes / primaries);
  const down = 20_000;
  const server = new Server(cores);
  const events = new Events();
  const connected = [];
  let attempts = 0;
  const pause = new Array(here).fill(library.firstPause);
  const again = (at, i) => {
    const longest = pause[i];
    pause[i] = Math.min(2 * longest, library.lastPause);
    events.add(at + longest * (0.5 + Math.random() * 0.5), i);
  };
  for (let i = 0; i < here; i += 1) again(0, i);
  const end = 120_000;
  for (let event = events.next(); event !== undefined && event.at < end; event = events.next()) {
    if (event.at < down) {
      again(event.at, event.what);
      continue;
    }
    attempts += 1;
    const isFull = connected.length >= room;
    const done = server.serve(event.at, (isFull ? cost.refuse : cost.connect) / 1_000);
    const isLate = done - event.at > library.connect;
    if (isLate) again(event.at + library.connect, event.what);
    else if (isFull) again(done, event.what);
    else connected.push(done - down);
  }
  const all = connected.length >= here;
  return {
    processes,
    primaries,
    "max_connections each": Number.isFinite(room) ? room : "enough",
    "half, s": all ? (sorted(connected)[Math.floor(here / 2)] / 1_000).toFixed(1) : "",
    "all, s": all ? (Math.max(...connected) / 1_000).toFixed(1) : "never",
    "attempts each": (attempts / here).toFixed(1),
    "cores busy after a minute": (server.busyBetween(60_000, end) / (end - 60_000)).toFixed(2),
  };
}

/** A server with several cores, which serve requests in order of arrival. */
class Server {
  #free;
  #served = [];

  constructor(count) {
    this.#free = new Array(count).fill(0);
  }

  /** Serves a request. @returns when it is done */
  serve(at, milliseconds) {
    let first = 0;
    for (let core = 1; core < this.#free.length; core += 1) {
      if (this.#free[core] < this.#free[first]) first = core;
    }
    const start = Math.max(at, this.#free[first]);
    this.#free[first] = start + milliseconds;
    this.#served.push([start, milliseconds]);
    return start + milliseconds;
  }

  busyBetween(from, to) {
    return this.#served.reduce((sum, [at, ms]) => (at >= from && at < to ? sum + ms : sum), 0);
  }
}

/** Events in order of time, in a binary heap. */
class Events {
  #heap = [];

  add(at, what) {
    const heap = this.#heap;
    heap.push({ at, what });
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (heap[parent].at <= heap[i].at) break;
      [heap[parent], heap[i]] = [heap[i], heap[parent]];
      i = parent;
    }
  }

  next() {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (heap.length === 0) return first;
    heap[0] = last;
    for (let i = 0; ; ) {
      const left = 2 * i + 1;
      if (left >= heap.length) break;
      const child = left + 1 < heap.length && heap[left + 1].at < heap[left].at ? left + 1 : left;
      if (heap[i].at <= heap[child].at) break;
      [heap[child], heap[i]] = [heap[i], heap[child]];
      i = child;
    }
    return first;
  }
}

console.log(`A minute of waiting; ${cores} cores each primary`);
console.table(
  [
    { processes: 400, keys: 1 },
    { processes: 1_000, keys: 1 },
    { processes: 1_000, keys: 1, deadlockTimeout: 6 },
    { processes: 1_000, keys: 100 },
    { processes: 10_000, keys: 1, deadlockTimeout: 6 },
    { processes: 10_000, keys: 50 },
    { processes: 10_000, keys: 1_000 },
    { processes: 10_000, keys: 1_000, primaries: 4 },
    { processes: 10_000, keys: 1_000, primaries: 10 },
  ].map(minuteOfWaiting),
);
console.log(`After a crash of all primaries: until every process is connected again`);
console.table(
  [
    { processes: 1_000 },
    { processes: 10_000 },
    { processes: 10_000, primaries: 4 },
    { processes: 10_000, primaries: 10 },
    { processes: 10_000, room: 5_000 },
  ].map(afterCrash),
);
