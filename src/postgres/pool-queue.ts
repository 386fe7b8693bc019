import { elapsedSince, now, soon } from "../runtime/clock.ts";
import { isThenable } from "../runtime/thenable.ts";
import { callHook } from "../runtime/user-hook.ts";
import { type Client, hasRoom, isEnding, type Pool, type Release } from "./driver.ts";

/** A caller that waits for a client of a pool. */
export interface Reserver {
  received(client: Client, release: Release): void;
  /** Called when the reserver's own request has failed, `after` milliseconds. Also called if the reserver has left. */
  failed(error: unknown, after: number): void;
  /** Called when the reserver has left, and the client of its own request went to another reserver or back to the pool. */
  missed(): void;
}

/**
 * The requests that lockers have in the queue of one pool, and the callers that wait for them.
 *
 * A request can't be withdrawn from a pool's queue. If its caller has left, it serves a caller that comes later: as long as there are enough
 * such requests, newcomers make none of their own. So a pool that gives nobody a client has no more requests in its queue than callers
 * waited at the same time, however many come and leave.
 *
 * The client of a request goes to the caller that made the request, or, if that has left, to the one that has waited longest. An error goes
 * only to the caller that made the request: it may be older than the others' waits, so they make new requests.
 */
export class PoolQueue {
  readonly #pool: Pool;
  /** How many of the pool's connections are open, as far as its events tell. */
  #connected: number;
  /** How many requests the pool has not answered. */
  #requests = 0;
  /** All callers that wait, in order of arrival. */
  readonly #waiting = new Set<Reserver>();
  /** The waiting callers that have made no request of their own. */
  readonly #takers = new Set<Reserver>();

  constructor(pool: Pool) {
    this.#pool = pool;
    this.#connected = pool.totalCount;
    pool.on("connect", () => {
      this.#connected += 1;
    });
    pool.on("remove", () => {
      this.#connected -= 1;
      // The pool now opens a connection for the first request in its queue, which may take longer than other connections take to return.
      this.#askForTakersSoon();
    });
    pool.on("error", () => {});
  }

  /** How many of the pool's connections are still being opened. */
  get dialing(): number {
    return Math.max(0, this.#pool.totalCount - this.#connected);
  }

  /** Makes a caller wait for a client. @returns whether it made a request of its own */
  join(reserver: Reserver): boolean {
    this.#waiting.add(reserver);
    if (hasRoom(this.#pool) || isEnding(this.#pool) || this.#isShort) {
      this.#request(reserver);
      return true;
    }
    this.#takers.add(reserver);
    return false;
  }

  /** Ends a caller's wait. @returns whether it has no request of its own, so that none of its methods will be called any more */
  leave(reserver: Reserver): boolean {
    this.#waiting.delete(reserver);
    return this.#takers.delete(reserver);
  }

  /** Whether requests are fewer than waiting callers. Those for which a connection is being opened, which may take long, don't count. */
  get #isShort(): boolean {
    return this.#requests - this.dialing < this.#waiting.size;
  }

  #request(by: Reserver): void {
    this.#takers.delete(by);
    this.#requests += 1;
    const asked = now();
    connect(this.#pool, (error, client, release) => {
      this.#requests -= 1;
      // `release` is given only together with a client.
      if (client !== undefined && release !== undefined) this.#hand(by, client, release);
      else by.failed(error, elapsedSince(asked));
      this.#askForTakersSoon();
    });
  }

  #hand(by: Reserver, client: Client, release: Release): void {
    const [first] = this.#waiting;
    const to = this.#waiting.has(by) ? by : first;
    if (to === undefined) giveBackLate(client, release);
    else to.received(client, release);
    if (to !== by) by.missed();
  }

  /** Makes the requests that are missing, in a later step: the pool is in the middle of one, and one that has ended answers at once. */
  #askForTakersSoon(): void {
    if (this.#takers.size === 0) return;
    soon(() => {
      for (const taker of this.#takers) {
        if (!this.#isShort) return;
        this.#request(taker);
      }
    });
  }
}

const queues = new WeakMap<Pool, PoolQueue>();

/**
 * The queue of a pool, which is watched once for its whole life, however many lockers use it. The watch's error listener keeps the process
 * from crashing when the server ends an idle connection: node-postgres emits that error on the pool, and the application may have no
 * listener there.
 */
export function queueOf(pool: Pool): PoolQueue {
  const known = queues.get(pool);
  if (known !== undefined) return known;
  const queue = new PoolQueue(pool);
  queues.set(pool, queue);
  return queue;
}

/**
 * Returns a client for which nobody waits, in a later step: during the release, the pool hands the client to the next request in its
 * queue, and if thousands of callers have left, their calls would overflow the stack. Until then the client needs an error listener,
 * because the message that ends its session may have arrived together with the one that opened it.
 */
function giveBackLate(client: Client, release: Release): void {
  client.on("error", ignored);
  soon(() => {
    callHook("pool's listener", release);
    client.removeListener("error", ignored);
  });
}

const ignored = (): void => {};

type Connected = (error: unknown, client?: Client, release?: Release) => void;

/**
 * Asks the pool for a client. Calls back once. If a wrapper answers both by callback and by promise, the second client is returned at
 * once.
 *
 * Some pools only support promises: a subclass with an async `connect` without parameters never calls back, and a wrapper that calls
 * `.then` on the result of `connect` throws if it is given a callback.
 */
function connect(pool: Pool, callback: Connected): void {
  let given: Client | undefined;
  let isDone = false;
  const done = (error: unknown, client?: PooledClient, release = releaseOf(client)): void => {
    if (client === undefined ? isDone : client === given) return;
    given ??= client;
    const isSecond = isDone;
    isDone = true;
    if (isSecond) callHook("pool's listener", () => release?.());
    else if (client === undefined || release !== undefined) callback(error, client, release);
    else callback(new Error("the pool's `connect` gave a client that has no `release`"));
  };
  const promised = (answer: unknown): void => {
    // A pool that calls back may return a promise of `undefined` as well.
    if (isThenable<PooledClient | undefined>(answer))
      answer.then((client) => client && done(undefined, client), done);
  };
  try {
    if (pool.connect.length > 0 && !promisesOnly.has(pool)) {
      promised(pool.connect((error, client, release) => done(error, client, release)));
      return;
    }
  } catch {
    // An error that isn't due to the callback, such as an invalid connection string, is thrown again by the next call.
    promisesOnly.add(pool);
  }
  try {
    promised((pool as unknown as PromisingPool).connect());
  } catch (error) {
    done(error);
  }
}

type PooledClient = Client & { release?: Release };

interface PromisingPool {
  connect(): PromiseLike<PooledClient | undefined>;
}

/** The `release` that the client has at this moment: during a transaction of the locker it is replaced by one that throws. */
function releaseOf(client: PooledClient | undefined): Release | undefined {
  const release = client?.release;
  return typeof release === "function" ? (destroy) => release.call(client, destroy) : undefined;
}

/** Pools whose `connect` threw when it was given a callback. */
const promisesOnly = new WeakSet<Pool>();
