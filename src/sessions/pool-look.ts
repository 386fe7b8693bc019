import { toError } from "../contract/caught-error.ts";
import { connectBeside } from "../postgres/beside.ts";
import type { Pool, Statement } from "../postgres/driver.ts";
import type { Value } from "../postgres/exchange.ts";
import { type Abandoned, type NotReserved, reserveSession } from "../postgres/reservation.ts";
import { boundedWait, Session, statementDeadline } from "../postgres/session.ts";
import { type HeldInBlock, heldInBlock, type SoleHolder, soleHolder } from "../postgres/sql-look.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";

interface Look {
  readonly doing: string;
  readonly what: Statement;
  readonly values: Value[];
}

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
  async holderOf(id: bigint): Promise<SoleHolder | NotReserved | Abandoned | undefined> {
    const look = { doing: "Looking for a holder", what: soleHolder, values: [id.toString()] };
    const seen = await this.#ask<SoleHolder[]>(look, undefined);
    return "refused" in seen ? seen : seen[0];
  }

  /**
   * Looks up which ids of a block are held by anybody.
   *
   * @param first the smallest id of a block of 2^`bits` ids, at most 2^32
   * @param left ends a wait for a connection
   * @returns the held ids, as offsets from `first`
   * @throws {DatabaseError}
   */
  heldIn(
    first: bigint,
    { bits, left }: { bits: number; left: StopSignal },
  ): Promise<HeldInBlock | NotReserved | Abandoned> {
    const values = [first.toString(), String(bits)];
    return this.#ask({ doing: "Looking for free permits", what: heldInBlock, values }, left);
  }

  /** Refuses new queries, and resolves when those in flight have ended. Never rejects. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
  }

  async #ask<T>(look: Look, left: StopSignal | undefined): Promise<T | NotReserved | Abandoned> {
    if (this.#pool.options.max === 1) return await this.#askBeside(look);
    const session = await reserveSession(this.#pool, { wait: this.#wait, left });
    if (!(session instanceof Session)) return session;
    try {
      const said = await this.#run<T>(session, look);
      session.return();
      return said;
    } catch (error) {
      session.destroy(toError(error));
      throw error;
    }
  }

  async #askBeside<T>(look: Look): Promise<T> {
    const own = await connectBeside(this.#pool, { doing: look.doing, milliseconds: boundedWait(this.#wait) });
    try {
      const said = await this.#run<T>(own.session, look);
      await own.end();
      return said;
    } catch (error) {
      own.session.destroy(toError(error));
      throw error;
    }
  }

  async #run<T>(session: Session, { doing, what, values }: Look): Promise<T> {
    if (this.#isClosed) throw new Error("the locker was closed");
    const running = session.run<T>(doing, what, values, statementDeadline);
    this.#running.add(running);
    try {
      return (await running).said;
    } finally {
      this.#running.delete(running);
    }
  }
}
