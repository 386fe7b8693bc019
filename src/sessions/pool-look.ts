import { toError } from "../contract/caught-error.ts";
import { connectBeside } from "../postgres/beside.ts";
import type { Pool, Statement } from "../postgres/driver.ts";
import type { Value } from "../postgres/exchange.ts";
import { type NotReserved, reserveSession } from "../postgres/reservation.ts";
import { boundedWait, Session, statementDeadline } from "../postgres/session.ts";
import { type HeldInBlock, heldInBlock, type SoleHolder, soleHolder } from "../postgres/sql-look.ts";

/**
 * Reads the server's list of locks on a session of the pool, which is returned after one statement. If the pool has only one connection,
 * it uses a session beside the pool, because the application may be using that connection while it waits for the answer.
 */
export class PoolLook {
  readonly #pool: Pool;
  readonly #wait: number;
  readonly #running = new Set<Promise<unknown>>();
  #isClosed = false;

  /** `connWaitTimeout`: how long to wait for a connection, in milliseconds. */
  constructor({ pool, connWaitTimeout }: { pool: Pool; connWaitTimeout: number }) {
    this.#pool = pool;
    this.#wait = connWaitTimeout;
  }

  /** Looks up the holder of an exclusive lock. @throws {DatabaseError} */
  async holderOf(id: bigint): Promise<SoleHolder | NotReserved | undefined> {
    const seen = await this.#ask<SoleHolder[]>("Looking for a holder", soleHolder, [id.toString()]);
    return "refused" in seen ? seen : seen[0];
  }

  /**
   * Looks up which ids of a block are held by anybody.
   *
   * @param first the smallest id of a block of 2^`bits` ids, at most 2^32
   * @returns the held ids, as offsets from `first`
   * @throws {DatabaseError}
   */
  heldIn(first: bigint, bits: number): Promise<HeldInBlock | NotReserved> {
    return this.#ask<HeldInBlock>("Looking for free permits", heldInBlock, [first.toString(), String(bits)]);
  }

  /** Refuses new queries, and resolves when those in flight have ended. Never rejects. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
  }

  async #ask<T>(doing: string, statement: Statement, values: Value[]): Promise<T | NotReserved> {
    if (this.#pool.options.max === 1) return await this.#askBeside(doing, statement, values);
    const session = await reserveSession(this.#pool, this.#wait);
    if (!(session instanceof Session)) return session;
    try {
      const said = await this.#run<T>(session, doing, statement, values);
      session.return();
      return said;
    } catch (error) {
      session.destroy(toError(error));
      throw error;
    }
  }

  async #askBeside<T>(doing: string, statement: Statement, values: Value[]): Promise<T> {
    const own = await connectBeside(this.#pool, { doing, milliseconds: boundedWait(this.#wait) });
    try {
      const said = await this.#run<T>(own.session, doing, statement, values);
      await own.end();
      return said;
    } catch (error) {
      own.session.destroy(toError(error));
      throw error;
    }
  }

  async #run<T>(session: Session, doing: string, statement: Statement, values: Value[]): Promise<T> {
    if (this.#isClosed) throw new Error("the locker was closed");
    const running = session.run<T>(doing, statement, values, statementDeadline);
    this.#running.add(running);
    try {
      return (await running).said;
    } finally {
      this.#running.delete(running);
    }
  }
}
