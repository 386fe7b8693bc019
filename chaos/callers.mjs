// The callers of a worker. Each takes turn after turn: with one key or several, in one of the ways below.
import { setTimeout as delay } from "node:timers/promises";
import { LockerError, LockNotHeldError } from "../dist/index.js";
import { between } from "./plan.mjs";
import { write } from "./resource.mjs";
import { insertWritten, lastWritten } from "./transactions.mjs";

/** How many of a hundred turns are of each kind. */
const turns = [
  [58, "one"],
  [12, "scope"],
  [10, "transaction"],
  [8, "group"],
  [8, "overrun"],
  [4, "shrink"],
];

/** The errors that an acquire may fail with. Any other is wrong. */
const passing = new Set([
  "LOCK_NOT_ACQUIRED",
  "DATABASE_ERROR",
  "STANDBY",
  "LOCK_LOST",
  "LOCK_EXPIRED",
  "LOCKER_CLOSED",
]);

/** How many milliseconds longer than its wait a call may take: several deadlines and a stall, on a busy machine. */
const patience = 60_000;

export class Callers {
  #locker;
  #claims;
  #journal;
  #resource;
  #draw;
  #keys;
  #now;
  #transaction = 0;
  #calls = new Map();
  isStopping = false;

  constructor({ locker, claims, journal, resource, draw, keys, now }) {
    this.#locker = locker;
    this.#claims = claims;
    this.#journal = journal;
    this.#resource = resource;
    this.#draw = draw;
    this.#keys = keys;
    this.#now = now;
  }

  async run(random) {
    while (!this.isStopping) {
      let card = random() * 100;
      const [, turn] = turns.find(([weight]) => {
        card -= weight;
        return card < 0;
      });
      await this.#turn(turn, random);
      await delay(between(random, [0, 20]));
    }
  }

  /** Checks that no call takes too long. */
  look() {
    const now = this.#now();
    for (const [call, { doing, until }] of this.#calls) {
      if (now < until) continue;
      this.#calls.delete(call);
      this.#journal.wrong(`${doing} has not ended ${patience} ms after its bound`);
    }
  }

  #turn(turn, random) {
    switch (turn) {
      case "one":
        return this.#one(random);
      case "scope":
        return this.#scope(random);
      case "transaction":
        return this.#inTransaction(random);
      case "group":
        return this.#group(random);
      case "overrun":
        return this.#overrun(random);
      default:
        return this.#shrink(random);
    }
  }

  /** Takes one lock, exclusive or shared, with or without a wait. */
  async #one(random) {
    const key = this.#draw.one(random);
    const mode = random() < 0.2 ? "shared" : "exclusive";
    const claim = await this.#acquire(random, key, { mode, autoRefresh: random() < 0.5 });
    if (claim === undefined) return;
    await this.#hold(random, claim, { lasts: lasting(random) });
    await this.#release(random, claim);
  }

  /** Holds a lock past its TTL without a refresh, and writes nevertheless. */
  async #overrun(random) {
    const key = this.#shortLived(random);
    const claim = await this.#acquire(random, key, {});
    if (claim === undefined) return;
    const lasts = claim.lock.ttl + between(random, [20, 300]);
    await this.#hold(random, claim, { lasts, refreshes: false });
    await this.#release(random, claim);
  }

  /** Sends two refreshes at once, the second with a shorter TTL, and holds the lock until that has passed. */
  async #shrink(random) {
    const key = this.#shortLived(random);
    const claim = await this.#acquire(random, key, {});
    if (claim === undefined) return;
    const { lock } = claim;
    await delay(between(random, [0, 50]));
    if (this.#claims.check(claim)) {
      const less = Math.max(Math.round(lock.ttl * between(random, [0.2, 0.6])), 50);
      const refreshes = [lock.refresh(), lock.refresh(less)];
      await Promise.all(refreshes.map((refresh) => this.#refreshed(refresh)));
      await this.#hold(random, claim, { lasts: less + between(random, [20, 200]), refreshes: false });
    }
    await this.#release(random, claim);
  }

  async #scope(random) {
    const key = this.#draw.one(random);
    const tries = random() < 0.5;
    const options = { ...this.#options(random, key), autoRefresh: random() < 0.8 };
    const asked = this.#now();
    let claim;
    const fn = async (lock) => {
      claim = this.#claims.begin(lock, { key, asked });
      await this.#hold(random, claim, { lasts: lasting(random), refreshes: false });
      this.#claims.giveUp(claim);
    };
    const { name } = this.#keys[key];
    const call = tries
      ? this.#locker.tryWithLock(name, fn, options)
      : this.#locker.withLock(name, fn, options);
    let failure;
    try {
      await this.#bounded("withLock", call, options.wait);
      this.#journal.count("withLock");
    } catch (error) {
      failure = error;
      this.#failed("withLock", error);
    }
    if (claim === undefined) {
      this.#mayHaveBeenGranted(key, failure);
      await this.#pauseAfterFailure(random);
      return;
    }
    // The call rejects as soon as the lock is lost, while the function may still be running.
    this.#claims.giveUp(claim);
    this.#claims.end(claim, failure);
  }

  /** Takes several keys, all or none. */
  async #group(random) {
    const places = this.#draw.several(random, 2 + Math.floor(random() * 3), ["warm", "cold", "cold"]);
    // At most the shortest TTL of the keys.
    const ttl = Math.min(...places.map((place) => this.#draw.ttl(random, place)));
    const options = { ...this.#options(random, places[0]), ttl, autoRefresh: random() < 0.5 };
    const pending = places.map((key) => {
      const of = this.#claims.id();
      this.#journal.note("pending", { of, key, at: this.#now() });
      return of;
    });
    const asked = this.#now();
    let group;
    try {
      const names = places.map((place) => this.#keys[place].name);
      group = await this.#bounded("acquireAll", this.#locker.acquireAll(names, options), options.wait);
      this.#journal.count("acquireAll");
    } catch (error) {
      this.#failed("acquireAll", error);
    }
    const claims = group?.locks.map((lock, at) => this.#claims.begin(lock, { key: places[at], asked }));
    for (const of of pending) this.#journal.note("settled", { of, at: this.#now() });
    if (claims === undefined) {
      await this.#pauseAfterFailure(random);
      return;
    }
    await this.#hold(random, claims[0], { lasts: lasting(random), refreshes: false });
    for (const claim of claims) this.#claims.giveUp(claim);
    try {
      await this.#bounded("release", group.release());
      for (const claim of claims) this.#claims.end(claim);
    } catch (error) {
      this.#failed("release", error);
      for (const claim of claims) this.#claims.end(claim, error);
      if (claims.some(({ lock }) => lock.signal.aborted) && !group.signal.aborted)
        this.#journal.wrong(`a lock of a group was lost, but the group's signal did not abort`);
    }
  }

  /** Reads the last committed number of the key, and writes the next one. */
  async #inTransaction(random) {
    const key = this.#draw.one(random);
    const { name } = this.#keys[key];
    const options = { ttl: this.#draw.ttl(random, key) };
    if (random() < 0.5) options.wait = Math.round(between(random, [50, 1_500]));
    this.#transaction += 1;
    const of = this.#claims.id();
    const asked = this.#now();
    let state = "outside";
    let ownError;
    const fn = async (client) => {
      try {
        const since = asked;
        const at = this.#now();
        state = "inside";
        const { rows } = await client.query(lastWritten, [key]);
        // The connection may be to the old primary. From here on it is known which server it is.
        this.#journal.note("entered", { of, key, at, since, ttl: options.ttl, more: rows[0].timeline });
        if (random() < 0.5) await delay(between(random, [0, 40]));
        await client.query(insertWritten, [this.#written(of), key, rows[0].n + 1]);
        const left = this.#now();
        this.#journal.note("left", { of, at: left });
        state = "left";
      } catch (error) {
        ownError = error;
        throw error;
      }
    };
    const pending = this.#claims.id();
    this.#journal.note("pending", { of: pending, key, at: asked });
    let how = "committed";
    try {
      await this.#bounded("withTransaction", this.#locker.withTransaction(name, fn, options), options.wait);
      this.#journal.count("withTransaction");
    } catch (error) {
      how = state === "left" && error.sqlState === undefined ? "unknown" : "not committed";
      // An error of the function's own statements is passed on.
      if (error === ownError) this.#journal.count("failed: withTransaction: a statement of its function");
      else this.#failed("withTransaction", error);
    }
    const at = this.#now();
    if (state !== "outside") this.#journal.note("outcome", { of, how, at });
    this.#journal.note("settled", { of: pending, at });
    if (how !== "committed") await this.#pauseAfterFailure(random);
  }

  #written(of) {
    return `${this.writer}-${of}`;
  }

  /** The prefix of the ids that this worker's transactions write. */
  writer = "";

  #options(random, key) {
    const options = { ttl: this.#draw.ttl(random, key), fencing: true };
    if (random() < 0.1) options.wait = Math.round(between(random, [100, 3_000]));
    return options;
  }

  #shortLived(random) {
    for (;;) {
      const key = this.#draw.one(random);
      if (this.#keys[key].sort === "short") return key;
    }
  }

  async #acquire(random, key, more) {
    const options = { ...this.#options(random, key), ...more };
    const { name } = this.#keys[key];
    const asked = this.#now();
    this.#journal.count(options.wait === undefined ? "try" : "wait");
    try {
      const call =
        options.wait === undefined
          ? this.#locker.tryAcquire(name, options)
          : this.#locker.acquire(name, options);
      const lock = await this.#bounded("acquire", call, options.wait);
      if (lock !== undefined) return this.#claims.begin(lock, { key, asked });
      this.#journal.count("contended");
    } catch (error) {
      this.#failed("acquire", error);
      this.#mayHaveBeenGranted(key, error);
    }
    await this.#pauseAfterFailure(random);
    return undefined;
  }

  /** Unless it is known that somebody else had the lock. */
  #mayHaveBeenGranted(key, error) {
    if (error !== undefined && error.reason !== "held") this.#claims.unclaimed(key);
  }

  /** Pauses briefly, and longer if the database is failing, so that a run doesn't consist mostly of errors. */
  #pauseAfterFailure(random) {
    const isInTrouble = this.#now() - this.#troubledAt < 50;
    return delay(between(random, isInTrouble ? [100, 600] : [2, 20]));
  }

  #troubledAt = Number.NEGATIVE_INFINITY;

  async #hold(random, claim, { lasts, refreshes = true }) {
    const { lock } = claim;
    const until = this.#now() + lasts;
    let refreshAt = this.#now() + lock.ttl * 0.35;
    if (random() < 0.2) await this.#put(claim, "decided");
    while (this.#now() < until && this.#claims.check(claim)) {
      await delay(Math.min(between(random, [2, 20]), Math.max(until - this.#now(), 1)));
      if (refreshes && this.#now() >= refreshAt && this.#claims.check(claim)) {
        await this.#refreshed(lock.refresh());
        refreshAt = this.#now() + lock.ttl * 0.35;
      }
      if (random() < 0.05) {
        // The write is decided while the lock is held, and sent some time later.
        const decided = this.#claims.checkAndNote(claim);
        if (random() < 0.3) await delay(between(random, [0, 100]));
        if (decided) await this.#put(claim, "decided");
      }
    }
  }

  async #refreshed(refresh) {
    try {
      await this.#bounded("refresh", refresh);
      this.#journal.count("refresh");
    } catch (error) {
      this.#failed("refresh", error);
    }
  }

  async #release(random, claim) {
    this.#claims.giveUp(claim);
    let failure;
    try {
      await this.#bounded("release", claim.lock.release());
      this.#journal.count("release");
    } catch (error) {
      failure = error;
      this.#failed("release", error);
    }
    const why = this.#claims.end(claim, failure);
    // A holder that no longer checks `held`, and writes nevertheless.
    if (why !== "released" && random() < 0.6) {
      await delay(between(random, [0, 500]));
      await this.#put(claim, "late");
    }
  }

  /** Writes to the resource that the lock protects, unless the holder is a reader. */
  async #put({ id, key, lock, isNoted }, how) {
    if (lock.mode === "shared" || !isNoted) return;
    const since = this.#now();
    try {
      const { rowCount } = await this.#resource.query(write, [
        this.#keys[key].name,
        lock.fencingToken.toString(),
      ]);
      const outcome = rowCount === 1 ? "accepted" : "refused";
      const at = this.#now();
      this.#journal.note("put", { of: id, how: how === "late" ? `late, ${outcome}` : outcome, at, since });
    } catch {
      this.#journal.count("write without an answer");
    }
  }

  /** Records that a call is under way, for `look`. */
  async #bounded(doing, call, wait = 0) {
    const me = {};
    this.#calls.set(me, { doing, until: this.#now() + wait + patience });
    try {
      return await call;
    } finally {
      this.#calls.delete(me);
    }
  }

  #failed(doing, error) {
    if (!(error instanceof LockerError)) {
      this.#journal.wrong(`${doing}: ${error?.stack ?? error}`);
      return;
    }
    if (error.code === "DATABASE_ERROR") this.#troubledAt = this.#now();
    const why = error.reason ?? error.sqlState;
    this.#journal.count(`failed: ${doing}: ${error.code}${why === undefined ? "" : ` (${why})`}`);
    const isExpected =
      doing === "refresh" || doing === "release"
        ? error instanceof LockNotHeldError
        : passing.has(error.code);
    if (!isExpected) this.#journal.wrong(`${doing}: ${error.stack}`);
  }
}

/** How long to hold a lock in milliseconds: mostly a few. */
function lasting(random) {
  const card = random();
  if (card < 0.8) return between(random, [0, 10]);
  return card < 0.96 ? between(random, [10, 120]) : between(random, [120, 1_500]);
}
