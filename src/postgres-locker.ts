import { setTimeout } from "node:timers/promises";
import pg from "pg";
import { BaseLocker } from "./base-locker.ts";
import { assertFunction, assertTransactionOptions } from "./contract/acquire-options.ts";
import { LockerClosedError, LockNotAcquiredError } from "./contract/errors.ts";
import type { Lock, TransactionClient, TransactionOptions } from "./contract/locker.ts";
import { type Entry, HeldLocks } from "./holding/lock-registry.ts";
import {
  checkPostgresLockerOptions,
  connWaitMilliseconds,
  type PostgresLockerOptions,
} from "./locker-options.ts";
import { listenerName } from "./postgres/application-name.ts";
import type { Pool } from "./postgres/driver.ts";
import { LocksKept } from "./postgres/lock-proof.ts";
import { type PingTarget, pingPool } from "./postgres/ping.ts";
import { Listener } from "./postgres/release-listener.ts";
import { watchPool } from "./postgres/reservation.ts";
import { statementDeadline } from "./postgres/session.ts";
import { within } from "./runtime/clock.ts";
import { abandonOnAbort, Stop } from "./runtime/stop-signal.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { tryLockOn, waitLockOn } from "./sessions/callers-transaction.ts";
import { DedicatedSessions } from "./sessions/dedicated-sessions.ts";
import type { Grant, LockRequest, Refusal } from "./sessions/grant.ts";
import { OwnTransactions } from "./sessions/own-transactions.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";
import { SharedSessions } from "./sessions/shared-sessions.ts";
import type { TransactionLock } from "./sessions/transaction-lock.ts";
import { carry, isAround, runAround } from "./waiting/reentrancy.ts";

/**
 * Locks that are PostgreSQL session advisory locks: a lock is held as long as its session lives, and at most for its TTL
 * as far as the holder may believe.
 *
 * @example
 * const locker = new PostgresLocker({ pool, namespace: 7 });
 * await using lock = await locker.acquire("invoice:42", { ttl: "30s" });
 */
export class PostgresLocker extends BaseLocker {
  readonly #sessions: DedicatedSessions | SharedSessions;
  readonly #transactions: OwnTransactions;
  readonly #inTransactions = new HeldLocks<Entry>();
  readonly #listener: Listener;
  readonly #locksKept: LocksKept;
  readonly #pools: readonly PingTarget[];
  readonly #ownPool: Pool | undefined;
  readonly #deadline: number;
  readonly #ttlEnforcement: "client" | "server";
  readonly #closing = new Stop();

  /** Opens no connection. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: PostgresLockerOptions) {
    const checked = checkPostgresLockerOptions(options);
    const { namespace = 0, pooler = "refuse", ttlEnforcement = "client" } = checked;
    const connWaitTimeout = connWaitMilliseconds(checked.connWaitTimeout);
    const telemetry = new Telemetry(checked);
    super({
      namespace,
      telemetry,
      breaker: checked.circuitBreaker,
      ...(ttlEnforcement === "server" && { assertTtl: assertEnforceableTtl }),
    });
    this.#ttlEnforcement = ttlEnforcement;
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
    const trustPooler = pooler === "session";
    watchPool(write);
    this.#pools = [
      { pool: write, locksLiveHere: true, trustPooler },
      ...(read === undefined ? [] : [{ pool: read, locksLiveHere: false, trustPooler }]),
    ];
    const { sessions = "shared", maxLocksPerSession = 1_000 } = checked;
    const carriers = { pool: write, namespace, connWaitTimeout, pooler, ttlEnforcement };
    this.#sessions =
      sessions === "shared"
        ? new SharedSessions({ ...carriers, maxLocksPerSession })
        : new DedicatedSessions(carriers);
    this.#locksKept = new LocksKept(write);
    this.#transactions = new OwnTransactions({ pool: write, wait: connWaitTimeout });
    this.#listener = new Listener({
      pool: write,
      name: listenerName(namespace),
      trustPooler,
      log: telemetry.log,
      onRelease: (id) => this.wake(id),
      onGone: () => this.wakeAll(),
    });
    this.withTransaction = this.withTransaction.bind(this);
    this.#deadline = Number.isFinite(connWaitTimeout) ? connWaitTimeout : 5_000;
  }

  /**
   * Runs `fn` under a lock that lasts until the end of a transaction: what `fn` writes through `client` is committed if and
   * only if the lock was held all the while. If `fn` fails, all of it is rolled back.
   *
   * The transaction is one of the locker's own, in `read committed`; or, with the option `client`, the caller's, which then
   * stays open, and keeps the lock until the caller ends it. Uses nothing else of the session, so that a pooler in
   * transaction mode serves as well.
   *
   * `fn` neither ends the transaction nor goes back to a savepoint that is older than the lock: the call then rejects, and of the
   * locker's own transaction nothing is committed but what `fn` has itself.
   *
   * @throws what `acquire` throws; then `fn` has not run
   * @throws {DatabaseError} the commit failed; without an answer, it is not known whether it took effect. Or `fn` had ended the
   *   transaction itself, or a statement of it had failed. Or (40P01) this transaction and another waited for each other's locks
   * @throws {LockExpiredError} the `ttl` passed without an answer of the server; nothing is committed
   * @throws {LockLostError} the server ended the transaction for that, before this process knew
   * @throws what `fn` throws
   */
  async withTransaction<T, C extends TransactionClient = TransactionClient>(
    key: string,
    fn: (client: C) => T | Promise<T>,
    options: TransactionOptions<C> = {},
  ): Promise<T> {
    assertFunction(fn);
    const { client, ...rest } = assertTransactionOptions(options);
    const enforced = this.#ttlEnforcement === "server" || rest.ttl !== undefined;
    const wanted = this.wanted(key, rest);
    if (rest.ttl !== undefined) assertEnforceableTtl(rest.ttl);
    const { id, mode } = wanted;
    const ttl = enforced ? wanted.ttl : undefined;
    const wait = isAround(this, id) ? 0 : wanted.wait;
    const [signal] = wanted.signals;
    // Ends a wait in the server; an attempt on the caller's client is then at its end when that is as it was.
    const leaving = new Stop();
    // Ends an attempt before it has begun.
    const patience = new Stop();
    let asked: LockRequest | undefined;
    let byItself = false;
    const onAbort = (reason: unknown): void => {
      if (client === undefined || !asked?.sent) patience.abort(reason);
      leaving.abort(reason);
    };
    const listening = abandonOnAbort(new Promise<never>(() => {}), [signal, this.#closing, patience]);
    listening.catch(onAbort);
    const cancel = (pid: number, lockId: bigint) => this.#transactions.cancelWait(pid, lockId);
    const tryLock = async (request: LockRequest): Promise<TransactionLock | Refusal> => {
      asked = request;
      const over = performance.now() + wait;
      for (;;) {
        const left = over - performance.now();
        const bounded = { bound: Math.min(left, longestWait), signal: leaving, ttl };
        const answer = await (left > 0
          ? client === undefined
            ? this.#transactions.waitLock(request, bounded)
            : waitLockOn(client, request, { ...bounded, cancel })
          : client === undefined
            ? this.#transactions.tryLock(request, { ttl })
            : tryLockOn(client, request, { ttl }));
        if (!("refused" in answer) || answer.refused !== "held") return answer;
        byItself = client !== undefined && answer.byItself === true;
        if (byItself || over - performance.now() <= 0) return answer;
      }
    };
    const hold = (lock: TransactionLock) => {
      // One whose session has gone keeps nobody out any more.
      const entry = {
        key,
        id,
        mode,
        get expired() {
          return !lock.isOpen;
        },
      };
      this.#inTransactions.add(entry);
      return { lock, entry };
    };
    const { lock, entry } = await this.take({ ...wanted, wait: 0, signals: [patience] }, { tryLock, hold })
      .catch((error: unknown) => {
        if (!(error instanceof LockNotAcquiredError) || error.reason !== "held") throw error;
        if (leaving.aborted) throw leaving.reason;
        if (byItself) throw new LockNotAcquiredError({ key, reason: "held", reentrant: "transaction" });
        if (wait === 0) throw error;
        throw new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait });
      })
      .finally(() => patience.abort(undefined));
    let isHeld = true;
    const end = (how: () => Promise<void>): Promise<void> =>
      this.telemetry.observe("release", wanted, undefined, async () => {
        try {
          await how();
        } finally {
          isHeld = false;
          this.#inTransactions.delete(entry);
          this.freed(id, false);
        }
      });
    let value: T;
    try {
      const running = runAround({ owner: this, id, isHeld: () => isHeld }, () => fn(lock.client as C));
      value = await abandonOnAbort(running, [lock.lost]);
    } catch (error) {
      await end(() => lock.release()).catch((suppressed: unknown) => carry(error, suppressed));
      if (!lock.lost.aborted || lock.lost.reason === error) throw error;
      carry(lock.lost.reason, error);
      throw lock.lost.reason;
    }
    await end(() => lock.commit());
    return value;
  }

  override close(): Promise<void> {
    this.#closing.abort(new LockerClosedError());
    return super.close();
  }

  protected override tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const answer = this.#sessions.tryLock(request);
    return this.#locksKept.areProven ? answer : this.#proveFirst(request, answer);
  }

  protected override heldHere(wanted: Pick<Lock, "key" | "id" | "mode">): boolean {
    return super.heldHere(wanted) || this.#inTransactions.keepOut(wanted);
  }

  protected override namesake(wanted: Pick<Lock, "key" | "id">): string | undefined {
    return super.namesake(wanted) ?? this.#inTransactions.namesake(wanted);
  }

  protected override watch(id: bigint): void {
    this.#listener.watch(id);
  }

  protected override unwatch(id: bigint): void {
    this.#listener.unwatch(id);
  }

  protected override async probe(): Promise<void> {
    await Promise.all(this.#pools.map((each) => pingPool(each, this.#deadline)));
  }

  protected override async end(): Promise<void> {
    await this.#transactions.close();
    await this.#sessions.close();
    await this.#listener.close();
    // No lock is left in it, and nobody else has it. A connection that is still being made can keep it from ending.
    await Promise.race([this.#ownPool?.end(), setTimeout(statementDeadline, undefined, { ref: false })]);
  }

  /** What is granted goes out only once it is known to be kept; where that takes long, it is given back and taken anew. */
  async #proveFirst(request: LockRequest, answer: Promise<Grant | Refusal>): Promise<Grant | Refusal> {
    const granted = await answer;
    if ("refused" in granted) return granted;
    const proof = this.#locksKept.prove();
    try {
      // Its TTL runs all the while, and its caller may leave.
      await within(request.ttl / 10, proof);
      return granted;
    } catch {
      await granted.release().catch(() => {});
    }
    await proof;
    return this.#sessions.tryLock(request);
  }
}

/** Milliseconds that a transaction waits in the server at a time: longer than PostgreSQL takes to look for a deadlock. */
const longestWait = 5_000;
