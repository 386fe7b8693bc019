import { DatabaseError } from "../contract/errors.ts";
import { Deadline, elapsedSince, now, within } from "../runtime/clock.ts";
import { isThenable } from "../runtime/thenable.ts";
import { type Client, destroySocket, type Pool, type Release } from "./driver.ts";
import { Session, statementDeadline } from "./session.ts";

/** Why no session was reserved: all are checked out; or the server did not answer. `waited` is in milliseconds. */
export interface NotReserved {
  readonly refused: "pool-saturated" | "connection-timeout";
  readonly waited: number;
}

/** Why a session is not one that locks are granted on yet: the server's lock table is too young. `graceLeft` is in milliseconds. */
export interface Recovering {
  readonly refused: "recovering";
  readonly graceLeft: number;
}

/** Why there is no session. */
export type NoSession = NotReserved | Recovering;

/**
 * Reserves a session of the pool, waiting at most `wait` milliseconds (`Infinity`: without a bound). One that arrives
 * later goes back untouched.
 *
 * @throws {DatabaseError} the pool has ended, or the server refused
 */
export function reserveSession(pool: Pool, wait: number): Promise<Session | NotReserved> {
  const watch = watchPool(pool);
  const asked = now();
  const queued = pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  // A pool full of connections that are still being made is not saturated: the server is not answering.
  const noSession = (): NotReserved => ({
    refused: queued && watch.dialing() === 0 ? "pool-saturated" : "connection-timeout",
    waited: Math.round(elapsedSince(asked)),
  });
  return new Promise((resolve, reject) => {
    let waiting = true;
    let deadline: Deadline | undefined;
    connect(pool, (error, client, release) => {
      // Only a client comes with something to release: the pool's own time-out, after ours, calls back without.
      if (!waiting) return release?.();
      deadline?.clear();
      waiting = false;
      if (client !== undefined && release !== undefined) return resolve(new Session(client, release));
      if (isOwnTimeout(pool, error, elapsedSince(asked))) return resolve(noSession());
      reject(new DatabaseError({ doing: "Reserving a session", cause: error }));
    });
    if (!Number.isFinite(wait)) return;
    // The pool hands out an idle client in the next tick, before this: most often there is nothing to time.
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

type Connected = (error: unknown, client?: Client, release?: Release) => void;

/**
 * Asks the pool for a client. Calls back once; a second client, of a wrapper that answers in both ways, goes back at once.
 *
 * A pool of its own kind may know promises only: a subclass whose `connect` is asynchronous and takes nothing, or a wrapper that
 * chains to what `connect` returns. The first would never call back, and the second throws.
 */
function connect(pool: Pool, callback: Connected): void {
  let given: Client | undefined;
  let isDone = false;
  const done = (error: unknown, client?: PooledClient, release = releaseOf(client)): void => {
    if (client === undefined ? isDone : client === given) return;
    given ??= client;
    const isSecond = isDone;
    isDone = true;
    if (isSecond) release?.();
    else if (client === undefined || release !== undefined) callback(error, client, release);
    else callback(new Error("the pool's `connect` gave a client that has no `release`"));
  };
  const promised = (answer: unknown): void => {
    // What is given to the callback may be promised as nothing.
    if (isThenable<PooledClient | undefined>(answer))
      answer.then((client) => client && done(undefined, client), done);
  };
  try {
    if (pool.connect.length > 0 && !promisesOnly.has(pool)) {
      promised(pool.connect((error, client, release) => done(error, client, release)));
      return;
    }
  } catch {
    // The same is thrown again, if it is not the callback's fault: a connection string that can't be read.
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

/** Pools that threw at a callback. */
const promisesOnly = new WeakSet<Pool>();

/** Whether the pool's own, shorter bound ended the wait. Its errors say so in words only. */
function isOwnTimeout(pool: Pool, error: unknown, waited: number): boolean {
  const bound = pool.options.connectionTimeoutMillis ?? 0;
  const saidByTheServer = typeof error === "object" && error !== null && "code" in error;
  return bound > 0 && waited >= bound - 1 && !saidByTheServer;
}

interface PoolWatch {
  /** How many of the pool's connections are still being made. */
  dialing(): number;
}

const watches = new WeakMap<Pool, PoolWatch>();

/**
 * Once per pool and for its life, however many lockers use it. The error listener is what keeps the process alive when
 * the server ends a connection that lies idle in the pool: node-postgres emits that on the pool, where an application
 * may have forgotten to listen.
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

/** The connections of pools that are the locker's own, for as long as they are open. */
const connections = new WeakMap<Pool, Set<Client>>();

/** Remembers the connections of a pool of the locker's own, so that {@link endPool} can end them all. */
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
 * Ends a pool of the locker's own, in which no lock is left. A connection that is still being made, or whose peer is silent, keeps a
 * pool from ending, and the process from exiting: what is left after a while is cut. Never rejects.
 */
export async function endPool(pool: Pool): Promise<void> {
  await within(statementDeadline, pool.end()).catch(() => {});
  for (const client of connections.get(pool) ?? []) destroySocket(client);
}
