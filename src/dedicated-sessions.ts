import { applicationName } from "./application-name.ts";
import type { Instant } from "./clock.ts";
import type { Pool } from "./driver.ts";
import { DatabaseError, LockNotAcquiredError, PoolerDetectedError, StandbyError } from "./errors.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import { reserveSession } from "./reservation.ts";
import type { Session } from "./session.ts";
import {
  type ProveAnswer,
  prove,
  type SessionSettings,
  type TryLockAnswer,
  tryLock,
  type UnlockAnswer,
  unlock,
} from "./sql.ts";

/** Milliseconds that the server has for one statement of ours; none of them ever waits for anything in the server. */
export const statementDeadline = 5_000;

/** One session of the pool for each lock, for as long as it is held: the arrangement of the Go package. */
export class DedicatedSessions {
  readonly #pool: Pool;
  readonly #namespace: number;
  readonly #connWaitTimeout: number;
  readonly #trustPooler: boolean;

  constructor(options: {
    pool: Pool;
    namespace: number;
    connWaitTimeout: number;
    pooler: "refuse" | "session";
  }) {
    this.#pool = options.pool;
    this.#namespace = options.namespace;
    this.#connWaitTimeout = options.connWaitTimeout;
    this.#trustPooler = options.pooler === "session";
  }

  /**
   * @throws {LockNotAcquiredError} `"connection-timeout"`
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {DatabaseError}
   */
  async tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const { key, id, mode, ttl } = request;
    const session = await reserveSession(this.#pool, this.#connWaitTimeout);
    if ("refused" in session) {
      if (session.refused === "pool-saturated") return { refused: session.refused, waited: session.waited };
      throw new LockNotAcquiredError({ key, reason: session.refused, waited: session.waited });
    }
    if (request.abandoned) {
      session.return();
      return { refused: "abandoned" };
    }
    const announced = this.#trustPooler ? undefined : session.announcedPid;
    const name = applicationName(this.#namespace, key);
    request.sent = true;
    try {
      const { said, sentAt } = await session.run<TryLockAnswer>(
        "Taking a lock",
        tryLock[mode],
        [id.toString(), announced ?? null, name],
        Math.min(statementDeadline, ttl),
      );
      if (said.granted === true && said.before !== null) {
        return new DedicatedLock(session, request, sentAt, { pid: said.pid, name, before: said.before });
      }
      if (said.granted === false) {
        session.return();
        return { refused: "held" };
      }
      if (said.standby) throw new StandbyError();
      if (announced !== undefined && said.pid !== announced) {
        throw new PoolerDetectedError({ announced, actual: said.pid });
      }
      throw new DatabaseError({
        doing: "Taking a lock",
        cause: new Error("it was neither granted nor refused"),
      });
    } catch (error) {
      // An error says nothing about whether the lock was granted: session locks survive a failed statement.
      session.destroy(error as Error);
      throw error;
    }
  }
}

/** How a holder's session was when it got its lock. */
interface Opened {
  readonly pid: number;
  readonly name: string;
  readonly before: SessionSettings;
}

class DedicatedLock implements Grant {
  readonly #session: Session;
  readonly #request: LockRequest;
  readonly #opened: Opened;
  readonly confirmedAt: Instant;

  constructor(session: Session, request: LockRequest, confirmedAt: Instant, opened: Opened) {
    this.#session = session;
    this.#request = request;
    this.confirmedAt = confirmedAt;
    this.#opened = opened;
  }

  get goneBecause(): Error | undefined {
    return this.#session.goneBecause;
  }

  onGone(listener: (cause: Error) => void): void {
    this.#session.onGone(listener);
  }

  async refresh(_ttl: number, deadline: number): Promise<Instant> {
    return this.#orDestroy(async () => {
      const doing = "Refreshing a lock";
      const within = Math.min(statementDeadline, deadline);
      const { said, sentAt } = await this.#session.run<ProveAnswer>(doing, prove, [], within);
      const { pid, name } = this.#opened;
      if (said.standby) throw new StandbyError();
      if (said.pid !== pid) throw new PoolerDetectedError({ announced: pid, actual: said.pid });
      if (said.name !== name)
        throw new DatabaseError({ doing, cause: new Error("the session's state was discarded") });
      return sentAt;
    });
  }

  async release(): Promise<void> {
    const { id, mode } = this.#request;
    await this.#orDestroy(async () => {
      const doing = "Giving a lock back";
      const values = [id.toString(), ...this.#opened.before];
      const { said } = await this.#session.run<UnlockAnswer>(doing, unlock[mode], values, statementDeadline);
      if (said[0] !== true)
        throw new DatabaseError({ doing, cause: new Error("the session no longer held it") });
    });
    this.#session.return();
  }

  /** After a failure nothing is known of the lock: only the end of its session is sure to free it. */
  async #orDestroy<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#session.destroy(error as Error);
      throw error;
    }
  }
}
