import { applicationName } from "./application-name.ts";
import type { Instant } from "./clock.ts";
import type { Pool } from "./driver.ts";
import { DatabaseError, LockNotAcquiredError, PoolerDetectedError, StandbyError } from "./errors.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import { reserveSession } from "./reservation.ts";
import type { Session } from "./session.ts";
import { tryLockColumns as columns, prove, type SessionSettings, tryLock, unlock } from "./sql.ts";

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
    if (request.abandoned.aborted) {
      session.return();
      return { refused: "abandoned" };
    }
    const announced = this.#trustPooler ? undefined : session.announcedPid;
    const name = applicationName(this.#namespace, key);
    const values = [id.toString(), announced ?? null, name];
    request.sent = true;
    try {
      const { row, sentAt } = await session.run(
        "Taking a lock",
        tryLock[mode],
        values,
        Math.min(statementDeadline, ttl),
      );
      const pid = Number(row[columns.pid]);
      switch (row[columns.granted]) {
        case "t":
          return new DedicatedLock(session, request, sentAt, {
            pid: row[columns.pid] ?? null,
            name,
            before: {
              idleSessionTimeout: row[columns.idleSessionTimeout] ?? null,
              statementTimeout: row[columns.statementTimeout] ?? null,
              defaultTransactionIsolation: row[columns.defaultTransactionIsolation] ?? null,
              applicationName: row[columns.applicationName] ?? null,
            },
          });
        case "f":
          session.return();
          return { refused: "held" };
        default:
          if (row[columns.standby] === "t") throw new StandbyError();
          if (announced !== undefined && pid !== announced)
            throw new PoolerDetectedError({ announced, actual: pid });
          throw new DatabaseError({
            doing: "Taking a lock",
            cause: new Error("the server neither granted nor refused it"),
          });
      }
    } catch (error) {
      // An error says nothing about whether the lock was granted: session locks survive a failed statement.
      session.destroy(error as Error);
      throw error;
    }
  }
}

class DedicatedLock implements Grant {
  readonly #session: Session;
  readonly #request: LockRequest;
  readonly #opened: { pid: string | null; name: string; before: SessionSettings };
  readonly confirmedAt: Instant;

  constructor(
    session: Session,
    request: LockRequest,
    confirmedAt: Instant,
    opened: { pid: string | null; name: string; before: SessionSettings },
  ) {
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
    try {
      const { row, sentAt } = await this.#session.run(
        "Refreshing a lock",
        prove,
        [],
        Math.min(statementDeadline, deadline),
      );
      const [pid, standby, name] = row;
      if (standby !== "f") throw new StandbyError();
      if (pid !== this.#opened.pid) {
        throw new PoolerDetectedError({ announced: Number(this.#opened.pid), actual: Number(pid) });
      }
      if (name !== this.#opened.name) {
        throw new DatabaseError({
          doing: "Refreshing a lock",
          cause: new Error("the session's state was discarded"),
        });
      }
      return sentAt;
    } catch (error) {
      this.#session.destroy(error as Error);
      throw error;
    }
  }

  async release(): Promise<void> {
    const { before } = this.#opened;
    const values = [
      this.#request.id.toString(),
      before.idleSessionTimeout,
      before.statementTimeout,
      before.defaultTransactionIsolation,
      before.applicationName,
    ];
    try {
      const { row } = await this.#session.run(
        "Giving a lock back",
        unlock[this.#request.mode],
        values,
        statementDeadline,
      );
      if (row[0] !== "t") {
        throw new DatabaseError({
          doing: "Giving a lock back",
          cause: new Error("the session no longer held it"),
        });
      }
    } catch (error) {
      this.#session.destroy(error as Error);
      throw error;
    }
    this.#session.return();
  }
}
