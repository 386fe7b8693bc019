import { DatabaseError } from "../contract/errors.ts";
import { elapsedSince, now } from "../runtime/clock.ts";
import type { Pool } from "./driver.ts";
import { Session } from "./session.ts";

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
    let timer: NodeJS.Timeout | undefined;
    try {
      pool.connect((error, client, release) => {
        // Only a client comes with something to release: the pool's own time-out, after ours, calls back without.
        if (!waiting) return release?.();
        clearTimeout(timer);
        waiting = false;
        if (client !== undefined && release !== undefined) return resolve(new Session(client, release));
        if (isOwnTimeout(pool, error, elapsedSince(asked))) return resolve(noSession());
        reject(new DatabaseError({ doing: "Reserving a session", cause: error }));
      });
    } catch (cause) {
      // A connection string that can't be read throws in this very step.
      reject(new DatabaseError({ doing: "Reserving a session", cause }));
      return;
    }
    if (!Number.isFinite(wait)) return;
    // The pool hands out an idle client in the next tick, before this: most often there is nothing to time.
    process.nextTick(() => {
      if (!waiting) return;
      timer = setTimeout(() => {
        waiting = false;
        resolve(noSession());
      }, wait);
    });
  });
}

/** Whether the pool's own, shorter bound ended the wait. Its errors say so in words only. */
function isOwnTimeout(pool: Pool, error: Error | undefined, waited: number): boolean {
  const bound = pool.options.connectionTimeoutMillis ?? 0;
  const saidByTheServer = error !== undefined && "code" in error;
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
