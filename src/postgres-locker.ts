import { setTimeout } from "node:timers/promises";
import pg from "pg";
import { BaseLocker } from "./base-locker.ts";
import { checkPostgresLockerOptions, connWaitMilliseconds, type PostgresLockerOptions } from "./config.ts";
import { DedicatedSessions, statementDeadline } from "./dedicated-sessions.ts";
import type { Pool } from "./driver.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import { pingPool } from "./ping.ts";
import { watchPool } from "./reservation.ts";
import { Telemetry } from "./telemetry.ts";

/**
 * Locks that are PostgreSQL session advisory locks: a lock is held as long as its session lives, and at most for its TTL
 * as far as the holder may believe.
 *
 * @example
 * const locker = new PostgresLocker({ pool, namespace: 7 });
 * await using lock = await locker.acquire("invoice:42", { ttl: "30s" });
 */
export class PostgresLocker extends BaseLocker {
  readonly #sessions: DedicatedSessions;
  readonly #pools: ReadonlyArray<{ pool: Pool; locksLiveHere: boolean }>;
  readonly #ownPool: Pool | undefined;
  readonly #deadline: number;

  /** Opens no connection. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: PostgresLockerOptions) {
    const checked = checkPostgresLockerOptions(options);
    const { namespace = 0, pooler = "refuse" } = checked;
    const connWaitTimeout = connWaitMilliseconds(checked.connWaitTimeout);
    super({ namespace, telemetry: new Telemetry(checked), breaker: checked.circuitBreaker });
    this.#ownPool =
      checked.connectionString === undefined
        ? undefined
        : new pg.Pool({
            connectionString: checked.connectionString,
            keepAlive: true,
            // A connection that is never answered would keep the process alive after close().
            connectionTimeoutMillis: Number.isFinite(connWaitTimeout) ? connWaitTimeout : statementDeadline,
          });
    const write = (checked.pool ?? checked.database?.write ?? this.#ownPool) as Pool;
    const read = checked.database?.read;
    watchPool(write);
    this.#pools = [
      { pool: write, locksLiveHere: true },
      ...(read === undefined ? [] : [{ pool: read, locksLiveHere: false }]),
    ];
    this.#sessions = new DedicatedSessions({ pool: write, namespace, connWaitTimeout, pooler });
    this.#deadline = Number.isFinite(connWaitTimeout) ? connWaitTimeout : 5_000;
  }

  protected override tryLock(request: LockRequest): Promise<Grant | Refusal> {
    return this.#sessions.tryLock(request);
  }

  protected override async probe(): Promise<void> {
    await Promise.all(this.#pools.map((each) => pingPool(each, this.#deadline)));
  }

  protected override async end(): Promise<void> {
    // No lock is left in it, and nobody else has it. A connection that is still being made can keep it from ending.
    await Promise.race([this.#ownPool?.end(), setTimeout(statementDeadline, undefined, { ref: false })]);
  }
}
