import { DatabaseError } from "../contract/errors.ts";
import { afterMicrotasks, Deadline, elapsedSince, now, within } from "../runtime/clock.ts";
import type { Link, StopSignal } from "../runtime/stop-signal.ts";
import { type Client, destroySocket, hasRoom, type Pool } from "./driver.ts";
import { queueOf, type Reserver } from "./pool-queue.ts";
import { Session, statementDeadline } from "./session.ts";

/** Why no session was reserved: all are checked out, or the server did not answer. `waited` is in milliseconds. */
export type NotReserved =
  | { readonly refused: "pool-saturated"; readonly waited: number }
  | { readonly refused: "connection-timeout"; readonly waited: number };

/** Why no lock may be granted on a session yet: the server's lock table is too young. `graceLeft` is in milliseconds. */
export interface Recovering {
  readonly refused: "recovering";
  readonly graceLeft: number;
}

/** Why there is no session for a lock: none could be reserved, or the recovery grace has not passed. */
export type NoSession = NotReserved | Recovering;

/** The caller has left before there was a session. */
export interface Abandoned {
  readonly refused: "abandoned";
}

/**
 * Reserves a session of the pool, waiting at most `wait` milliseconds (`Infinity`: without a bound). A connection that arrives later goes to
 * the next caller that waits, or back to the pool unused.
 *
 * After an abort of `left` no session is reserved any more. The outcome still tells whether the pool had a connection in time, which a
 * circuit breaker wants to know.
 *
 * @throws {DatabaseError} the pool has ended, or the server refused
 */
export function reserveSession(pool: Pool, asked: { wait: number }): Promise<Session | NotReserved>;
export function reserveSession(
  pool: Pool,
  asked: { wait: number; left: StopSignal | undefined },
): Promise<Session | NotReserved | Abandoned>;
export function reserveSession(
  pool: Pool,
  { wait, left }: { wait: number; left?: StopSignal | undefined },
): Promise<Session | NotReserved | Abandoned> {
  if (left?.aborted) return Promise.resolve({ refused: "abandoned" });
  const queue = queueOf(pool);
  const start = now();
  const wasFull = !hasRoom(pool);
  // If the pool is full of connections that are still being opened, or one has just failed, it isn't saturated: the server doesn't answer.
  const noSession = (): NotReserved => ({
    refused: wasFull && !hasRoom(pool) && queue.dialing === 0 ? "pool-saturated" : "connection-timeout",
    waited: Math.round(elapsedSince(start)),
  });
  return new Promise((resolve, reject) => {
    let isOver = false;
    let deadline: Deadline | undefined;
    let link: Link | undefined;
    const end = (): void => {
      isOver = true;
      deadline?.clear();
      link?.cut();
      queue.leave(reserver);
    };
    const reserver: Reserver = {
      received(client, release) {
        end();
        resolve(new Session(client, release));
      },
      failed(error, after) {
        end();
        if (isOwnTimeout(pool, error, after)) resolve(noSession());
        else reject(new DatabaseError({ doing: "Reserving a session", cause: error }));
      },
      missed() {
        end();
        resolve({ refused: "abandoned" });
      },
    };
    const hasAsked = queue.join(reserver);
    if (isOver) return;
    // The pool counts its own time-out from a request, of which this caller has made none.
    const bound = hasAsked ? wait : Math.min(wait, pool.options.connectionTimeoutMillis || wait);
    link = left?.listen(() => {
      const isToldNothing = queue.leave(reserver) && !Number.isFinite(bound);
      if (isToldNothing) reserver.missed();
    });
    if (!Number.isFinite(bound)) return;
    // A pool hands out an idle client in the next tick, before this callback, so usually no deadline is needed.
    afterMicrotasks(() => {
      if (isOver) return;
      deadline = new Deadline(bound, {
        late: () => {
          end();
          resolve(noSession());
        },
      });
    });
  });
}

/** Whether the pool's own, shorter time-out ended the wait. Judged by the time, because the pool's error says so only in its text. */
function isOwnTimeout(pool: Pool, error: unknown, waited: number): boolean {
  const bound = pool.options.connectionTimeoutMillis ?? 0;
  const saidByTheServer = typeof error === "object" && error !== null && "code" in error;
  return bound > 0 && waited >= bound - 1 && !saidByTheServer;
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
