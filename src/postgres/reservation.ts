import { DatabaseError } from "../contract/errors.ts";
import { Deadline, elapsedSince, now, within } from "../runtime/clock.ts";
import { isThenable } from "../runtime/thenable.ts";
import { callHook } from "../runtime/user-hook.ts";
import { type Client, destroySocket, type Pool, type Release } from "./driver.ts";
import { Session, statementDeadline } from "./session.ts";

/** Why no session was reserved: all are checked out, or the server did not answer. `waited` is in milliseconds. */
export interface NotReserved {
  readonly refused: "pool-saturated" | "connection-timeout";
  readonly waited: number;
}

/** Why no lock may be granted on a session yet: the server's lock table is too young. `graceLeft` is in milliseconds. */
export interface Recovering {
  readonly refused: "recovering";
  readonly graceLeft: number;
}

/** Why there is no session for a lock: none could be reserved, or the recovery grace has not passed. */
export type NoSession = NotReserved | Recovering;

/**
 * Reserves a session of the pool, waiting at most `wait` milliseconds (`Infinity`: without a bound). A session that arrives later is
 * returned to the pool unused.
 *
 * @throws {DatabaseError} the pool has ended, or the server refused
 */
export function reserveSession(pool: Pool, wait: number): Promise<Session | NotReserved> {
  const watch = watchPool(pool);
  const asked = now();
  const queued = pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  // If the pool is full of connections that are still being opened, it isn't saturated: the server doesn't answer.
  const noSession = (): NotReserved => ({
    refused: queued && watch.dialing() === 0 ? "pool-saturated" : "connection-timeout",
    waited: Math.round(elapsedSince(asked)),
  });
  return new Promise((resolve, reject) => {
    let waiting = true;
    let deadline: Deadline | undefined;
    connect(pool, (error, client, release) => {
      // `release` is given only together with a client: when the pool's own time-out comes after ours, there is none.
      if (!waiting) {
        if (client !== undefined && release !== undefined) giveBackLate(client, release);
        return;
      }
      deadline?.clear();
      waiting = false;
      if (client !== undefined && release !== undefined) return resolve(new Session(client, release));
      if (isOwnTimeout(pool, error, elapsedSince(asked))) return resolve(noSession());
      reject(new DatabaseError({ doing: "Reserving a session", cause: error }));
    });
    if (!Number.isFinite(wait)) return;
    // A pool hands out an idle client in the next tick, before this callback, so usually no deadline is needed.
    process.nextTick(() => {
      if (!waiting) return;
      deadline = new Deadline(wait, {
        late: () => {
          waiting = false;
          resolve(noSession());
        },
      });
    });
  });
}

/**
 * Gives back a client whose caller has left, in a step of its own: within the release, the pool hands the client to the next in its queue,
 * and if thousands of those have left as well, that would be too many calls within each other. Until then the client needs an error
 * listener, because the message that ends its session may have come together with the one that opened it.
 */
function giveBackLate(client: Client, release: Release): void {
  client.on("error", ignored);
  queueMicrotask(() => {
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

/** As the client has it now: in a transaction, it has one that refuses. */
function releaseOf(client: PooledClient | undefined): Release | undefined {
  const release = client?.release;
  return typeof release === "function" ? (destroy) => release.call(client, destroy) : undefined;
}

/** Pools whose `connect` threw when it was given a callback. */
const promisesOnly = new WeakSet<Pool>();

/** Whether the pool's own, shorter time-out ended the wait. Judged by the time, because the pool's error says so only in its text. */
function isOwnTimeout(pool: Pool, error: unknown, waited: number): boolean {
  const bound = pool.options.connectionTimeoutMillis ?? 0;
  const saidByTheServer = typeof error === "object" && error !== null && "code" in error;
  return bound > 0 && waited >= bound - 1 && !saidByTheServer;
}

interface PoolWatch {
  /** How many of the pool's connections are still being opened. */
  dialing(): number;
}

const watches = new WeakMap<Pool, PoolWatch>();

/**
 * Watches a pool, once for its whole life, however many lockers use it. Its error listener keeps the process from crashing when the
 * server ends an idle connection: node-postgres emits that error on the pool, and the application may have no listener there.
 */
export function watchPool(pool: Pool): PoolWatch {
  const known = watches.get(pool);
  if (known !== undefined) return known;
  let connected = pool.totalCount;
  pool.on("connect", () => {
    connected += 1;
  });
  pool.on("remove", () => {
    connected -= 1;
  });
  pool.on("error", () => {});
  const watch = { dialing: () => Math.max(0, pool.totalCount - connected) };
  watches.set(pool, watch);
  return watch;
}

/** The open connections of pools that lockers made themselves. */
const connections = new WeakMap<Pool, Set<Client>>();

/** Keeps track of the connections of a pool that a locker made itself, so that {@link endPool} can end them all. */
export function watchConnections(pool: Pool): void {
  const open = new Set<Client>();
  connections.set(pool, open);
  pool.on("connect", (client) => {
    if (client === undefined) return;
    open.add(client);
    client.on("end", () => open.delete(client));
  });
}

/**
 * Ends a pool that a locker made itself, once it carries no locks. A connection that is still being opened, or whose server is silent,
 * would keep the pool from ending and the process from exiting, so those left after a while are cut. Never rejects.
 */
export async function endPool(pool: Pool): Promise<void> {
  await within(statementDeadline, pool.end()).catch(() => {});
  for (const client of connections.get(pool) ?? []) destroySocket(client);
}
