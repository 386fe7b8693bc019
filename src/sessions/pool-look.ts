import { toError } from "../contract/caught-error.ts";
import { connectBeside } from "../postgres/beside.ts";
import type { Pool, Statement } from "../postgres/driver.ts";
import type { Value } from "../postgres/exchange.ts";
import { type NotReserved, reserveSession } from "../postgres/reservation.ts";
import { boundedWait, Session, statementDeadline } from "../postgres/session.ts";
import { type HeldInBlock, heldInBlock, type SoleHolder, soleHolder } from "../postgres/sql-look.ts";

/**
 * Looks at locks on a session of the pool, which goes back after the one statement; or on one beside the pool, if that has a single
 * connection: the application may be at work on it while it waits for what is looked at.
 */
export class PoolLook {
  readonly #pool: Pool;
  readonly #wait: number;
  readonly #running = new Set<Promise<unknown>>();
  #isClosed = false;

  /** `connWaitTimeout`: milliseconds. */
  constructor({ pool, connWaitTimeout }: { pool: Pool; connWaitTimeout: number }) {
    this.#pool = pool;
    this.#wait = connWaitTimeout;
  }

  /** @returns who holds the lock alone, if anybody does @throws {DatabaseError} */
  async holderOf(id: bigint): Promise<SoleHolder | NotReserved | undefined> {
    const seen = await this.#ask<SoleHolder[]>("Looking for a holder", soleHolder, [id.toString()]);
    return "refused" in seen ? seen : seen[0];
  }

  /**
   * @param first the smallest id of a block of 2^`bits` ids, at most 2^32
   * @returns which of the block are held by anybody, counted from `first`
   * @throws {DatabaseError}
   */
  heldIn(first: bigint, bits: number): Promise<HeldInBlock | NotReserved> {
    return this.#ask<HeldInBlock>("Looking for free permits", heldInBlock, [first.toString(), String(bits)]);
  }

  /** Lets no more looks begin; resolves when those that were sent have ended. Never rejects. */
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
