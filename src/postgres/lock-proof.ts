import { randomBytes } from "node:crypto";
import { LocksNotKeptError } from "../contract/errors.ts";
import { within } from "../runtime/clock.ts";
import { clientBeside, destroySocket, type OwnClient, type Pool, query, type Statement } from "./driver.ts";
import { hasLock, probeHeldLock, probeLock, unprobeLock } from "./sql.ts";

/** Milliseconds before a proof that was not possible is tried again. */
const pause = 1_000;

/** A lock that the server has granted, and the backend of the session that should have it. */
export interface GrantedLock {
  readonly id: bigint;
  readonly pid: number;
}

/**
 * Proves, once for each locker, that a server keeps the advisory locks that it grants. Databases that speak PostgreSQL's
 * protocol may answer true and lock nothing (https://github.com/cockroachdb/cockroach/issues/13546): every caller would hold every lock.
 */
export class LocksKept {
  readonly #pool: Pool;
  /** Only {@link prove} changes it. */
  areProven = false;
  #underWay: Promise<void> | undefined;
  #notBefore = 0;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /**
   * Proves that the server keeps its locks, unless that has been proved. If the server doesn't answer within the given number of
   * milliseconds, the proof is postponed, because a lock that was granted in the meantime already has a working session.
   *
   * @param granted the lock by which to prove it, over one more connection; without it, that takes two connections and a lock of its own
   * @throws {LocksNotKeptError}
   */
  async prove(milliseconds: number, granted?: GrantedLock): Promise<void> {
    if (this.areProven || performance.now() < this.#notBefore) return;
    this.#underWay ??= this.#prove(milliseconds, granted).finally(() => {
      this.#underWay = undefined;
    });
    await this.#underWay;
  }

  async #prove(milliseconds: number, granted: GrantedLock | undefined): Promise<void> {
    const over = performance.now() + milliseconds;
    const clients: OwnClient[] = [];
    let isOver = false;
    const connect = async (): Promise<OwnClient> => {
      // A check that was given up stops here, at its next step.
      if (isOver) throw new Error("the proof is over");
      const client = clientBeside(this.#pool);
      clients.push(client);
      await client.connect();
      return client;
    };
    // A failover between two connections puts them on different servers, which fails the check, as does the end of the granted lock; so a
    // failure is checked again.
    const look = async (): Promise<boolean> =>
      (granted !== undefined && (await isKept(granted, connect))) ||
      (await areKept(connect)) ||
      areKept(connect);
    try {
      if (this.#pool.loadDriver !== undefined) await this.#pool.loadDriver();
      const kept = await within(milliseconds, look());
      if (!kept) throw new LocksNotKeptError();
      this.areProven = true;
    } catch (error) {
      if (error instanceof LocksNotKeptError) throw error;
      this.#notBefore = performance.now() + pause;
    } finally {
      isOver = true;
      // Waits until the connections have ended, because the next caller may need them if connections are few.
      const left = Math.max(over - performance.now(), 1);
      await Promise.all(
        clients.map((client) => within(left, client.end()).catch(() => destroySocket(client))),
      );
    }
  }
}

/** Whether a second session is refused a granted lock, and finds it in `pg_locks`. */
async function isKept({ id, pid }: GrantedLock, connect: () => Promise<OwnClient>): Promise<boolean> {
  const [refused, listed] = await ask<[boolean, boolean]>(await connect(), probeHeldLock, [
    `${id}`,
    `${pid}`,
  ]);
  return refused && listed;
}

/** Whether a session that took a lock finds it in `pg_locks`, while a second session is refused the same lock. */
async function areKept(connect: () => Promise<OwnClient>): Promise<boolean> {
  const values = [randomBytes(8).readBigInt64BE().toString()];
  const one = await connect();
  const granted = await ask<boolean>(one, probeLock, values);
  const listed = await ask<boolean>(one, hasLock, values);
  const another = await connect();
  const grantedTwice = await ask<boolean>(another, probeLock, values);
  await ask(one, unprobeLock, values);
  return granted && listed && !grantedTwice;
}

async function ask<T>(client: OwnClient, statement: Statement, values: string[]): Promise<T> {
  const { rows } = await client.query(query(statement, values));
  return JSON.parse(String(rows[0]?.[0])) as T;
}
