import pg from "pg";
import { BaseLocker, defaultTtl } from "./base-locker.ts";
import { assertFunction, assertPositiveTtl, assertTransactionOptions } from "./contract/acquire-options.ts";
import { milliseconds } from "./contract/duration.ts";
import { LockNotAcquiredError } from "./contract/errors.ts";
import type { Lock, TransactionClient, TransactionOptions } from "./contract/locker.ts";
import { type Entry, HeldLocks } from "./holding/lock-registry.ts";
import {
  checkPostgresLockerOptions,
  connWaitMilliseconds,
  type PostgresLockerOptions,
} from "./locker-options.ts";
import type { Pool } from "./postgres/driver.ts";
import { LocksKept } from "./postgres/lock-proof.ts";
import { type PingTarget, pingPool } from "./postgres/ping.ts";
import { endPool, watchConnections, watchPool } from "./postgres/reservation.ts";
import { boundedWait } from "./postgres/session.ts";
import { within } from "./runtime/clock.ts";
import { abandonOnAbort, Stop } from "./runtime/stop-signal.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { tryLockOn, untilSettled, waitLockOn } from "./sessions/callers-transaction.ts";
import { DedicatedSessions } from "./sessions/dedicated-sessions.ts";
import type { Grant, LockRequest, Refusal } from "./sessions/grant.ts";
import { OwnTransactions } from "./sessions/own-transactions.ts";
import { assertTtlWithin, RecoveryGrace } from "./sessions/recovery-grace.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";
import { SharedSessions } from "./sessions/shared-sessions.ts";
import type { TransactionLock } from "./sessions/transaction-lock.ts";
import { WaitingSessions } from "./sessions/waiting-sessions.ts";
import type { Attempt, Wanted } from "./waiting/admission.ts";
import { carry, isInTransactionOf, runAround } from "./waiting/reentrancy.ts";

/** Milliseconds that are left for the proof that locks are kept, however long the first grant took. */
const shortestProof = 100;

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
  readonly #waiting: WaitingSessions;
  readonly #locksKept: LocksKept;
  readonly #pools: readonly PingTarget[];
  readonly #ownPool: Pool | undefined;
  readonly #deadline: number;
  readonly #recovery: RecoveryGrace | undefined;
  readonly #ttlEnforcement: "client" | "server";

  /** Opens no connection. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: PostgresLockerOptions) {
    const checked = checkPostgresLockerOptions(options);
    const { namespace = 0, pooler = "refuse", ttlEnforcement = "client" } = checked;
    const connWaitTimeout = connWaitMilliseconds(checked.connWaitTimeout);
    const telemetry = new Telemetry(checked);
    const grace = milliseconds(checked.recoveryGrace);
    const assertTtl = ttlEnforcement === "server" ? assertEnforceableTtl : assertPositiveTtl;
    super({
      namespace,
      telemetry,
      breaker: checked.circuitBreaker,
      assertTtl: grace === undefined ? assertTtl : assertTtlWithin(grace, assertTtl),
      defaultTtl: Math.min(defaultTtl, grace ?? defaultTtl),
    });
    this.#ttlEnforcement = ttlEnforcement;
    this.#ownPool =
      checked.connectionString === undefined
        ? undefined
        : new pg.Pool({
            connectionString: checked.connectionString,
            keepAlive: true,
            // A locker that holds nothing doesn't keep the process alive; one that holds or waits does.
            allowExitOnIdle: true,
            // A connection that is never answered would keep the process alive after close().
            connectionTimeoutMillis: boundedWait(connWaitTimeout),
          });
    if (this.#ownPool !== undefined) watchConnections(this.#ownPool);
    const write = (checked.pool ?? checked.database?.write ?? this.#ownPool) as Pool;
    const read = checked.database?.read;
    const trustPooler = pooler === "session";
    watchPool(write);
    this.#pools = [
      { pool: write, locksLiveHere: true, trustPooler },
      ...(read === undefined ? [] : [{ pool: read, locksLiveHere: false, trustPooler }]),
    ];
    const { sessions = "shared", maxLocksPerSession = 1_000, maxWaitingSessions = 4 } = checked;
    const recovery = grace === undefined ? undefined : new RecoveryGrace({ grace, trustPooler });
    this.#recovery = recovery;
    const carriers = { pool: write, namespace, connWaitTimeout, pooler, ttlEnforcement, recovery };
    this.#sessions =
      sessions === "shared"
        ? new SharedSessions({ ...carriers, maxLocksPerSession })
        : new DedicatedSessions(carriers);
    this.#locksKept = new LocksKept(write);
    this.#transactions = new OwnTransactions({ pool: write, wait: connWaitTimeout, recovery });
    this.#waiting = new WaitingSessions({ ...carriers, maxWaitingSessions }, () => this.offerPlace());
    this.withTransaction = this.withTransaction.bind(this);
    this.#deadline = boundedWait(connWaitTimeout);
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
    const wanted = this.wanted(key, rest);
    const enforced = this.#ttlEnforcement === "server" || rest.ttl !== undefined;
    const ttl = enforced ? assertEnforceableTtl(wanted.ttl) : undefined;
    const { id } = wanted;
    const { lock, entry } = await this.#takeInTransaction(wanted, { client, ttl });
    let isHeld = true;
    const end = (how: () => Promise<void>): Promise<void> =>
      this.telemetry.observe("release", wanted, undefined, async () => {
        try {
          await how();
        } finally {
          isHeld = false;
          this.#inTransactions.delete(entry);
          this.freed(id);
        }
      });
    let value: T;
    try {
      await lock.keep();
      const around = { owner: this, id, client, isHeld: () => isHeld };
      const running = runAround(around, () => fn(lock.client as C));
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

  /**
   * In a transaction of the caller's, a wait is one of the server's at once: in a line of this process, a deadlock would never be
   * found. The locker's own transactions have done nothing yet, so only the first of a line takes a connection of the pool.
   */
  async #takeInTransaction(
    wanted: Wanted,
    { client, ttl }: { client: TransactionClient | undefined; ttl: number | undefined },
  ): Promise<{ lock: TransactionLock; entry: Entry }> {
    const { key, id, mode } = wanted;
    // Ends the attempt for a cause that no waiting mends.
    const hopeless = new Stop();
    let asked: LockRequest | undefined;
    /** Whatever is under way on the caller's client, and what undoes it. */
    let settled: Promise<void> | undefined;
    const isWithin = client !== undefined && isInTransactionOf(client);
    const recovery = this.#recovery;
    const cancel = (pid: number, lockId: bigint) => this.#transactions.cancelWait(pid, lockId);
    const ask = async (
      request: LockRequest,
      bound: number | undefined,
    ): Promise<TransactionLock | Refusal> => {
      const left = new Stop();
      request.cancel = () => left.abort(undefined);
      const wait = bound === undefined ? undefined : { bound, ttl, signal: left };
      if (client === undefined) {
        return wait === undefined
          ? this.#transactions.tryLock(request, { ttl })
          : this.#transactions.waitLock(request, wait);
      }
      const answer =
        wait === undefined
          ? tryLockOn(client, request, { ttl, isWithin, recovery })
          : waitLockOn(client, request, { ...wait, cancel, isWithin, recovery });
      asked = request;
      settled = untilSettled(client, isWithin);
      // Whatever it is, it is that of a transaction that is the caller's to begin anew.
      answer.catch((error: unknown) => hopeless.abort(error));
      const granted = await answer;
      if ("refused" in granted && granted.refused === "held" && granted.byItself) {
        hopeless.abort(new LockNotAcquiredError({ key, reason: "held", reentrant: "transaction" }));
      }
      return granted;
    };
    const attempt: Attempt<TransactionLock, { lock: TransactionLock; entry: Entry }> = {
      bringsPlace: true,
      skipsLine: client !== undefined,
      hasPlaceToWait: () => true,
      tryLock: (request) => ask(request, undefined),
      waitLock: ask,
      hold: (lock) => {
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
      },
    };
    try {
      return await this.take({ ...wanted, signals: [...wanted.signals, hopeless] }, attempt);
    } catch (error) {
      // What the caller does next must not come in between.
      if (asked?.sent) await settled;
      throw error;
    }
  }

  protected override attempt(): Omit<Attempt<Grant, unknown>, "hold"> {
    return {
      canTry: () => this.#sessions.canTry(),
      tryLock: (request) => this.#kept(request, this.#sessions.tryLock(request)),
      pollLock: (request) => this.#kept(request, this.#sessions.pollLock(request)),
      hasPlaceToWait: () => this.#waiting.hasPlace,
      waitLock: (request, bound) =>
        this.#locksKept.areProven
          ? this.#waiting.waitLock(request, bound)
          : this.#proveThenWait(request, bound),
    };
  }

  protected override get isHolding(): boolean {
    return super.isHolding || this.#inTransactions.isHolding;
  }

  protected override heldHere(wanted: Pick<Lock, "key" | "id" | "mode">): boolean {
    return super.heldHere(wanted) || this.#inTransactions.keepOut(wanted);
  }

  protected override namesake(wanted: Pick<Lock, "key" | "id">): string | undefined {
    return super.namesake(wanted) ?? this.#inTransactions.namesake(wanted);
  }

  protected override async probe(): Promise<void> {
    await Promise.all(this.#pools.map((each) => pingPool(each, this.#deadline)));
  }

  protected override async end(): Promise<void> {
    await this.#transactions.close();
    await this.#sessions.close();
    await this.#waiting.close();
    if (this.#ownPool !== undefined) await endPool(this.#ownPool);
  }

  /**
   * What is granted goes out only once it is known that the server keeps its locks. If that takes long, it is given back, and taken
   * anew afterwards.
   */
  #kept(request: LockRequest, answer: Promise<Grant | Refusal>): Promise<Grant | Refusal> {
    return this.#locksKept.areProven ? answer : this.#proveFirst(request, answer);
  }

  /** Before it waits, because a proof between a grant and its answer would hold up all those who wait behind it. */
  async #proveThenWait(request: LockRequest, bound: number): Promise<Grant | Refusal> {
    const start = performance.now();
    await this.#locksKept.prove(Math.min(this.#deadline, bound));
    if (request.abandoned) return { refused: "abandoned" };
    return await this.#waiting.waitLock(request, Math.max(start + bound - performance.now(), 1));
  }

  async #proveFirst(request: LockRequest, answer: Promise<Grant | Refusal>): Promise<Grant | Refusal> {
    const start = performance.now();
    const granted = await answer;
    if ("refused" in granted) return granted;
    // The proof counts into the wait for a connection, as the session of the grant does.
    const proof = this.#locksKept.prove(Math.max(start + this.#deadline - performance.now(), shortestProof));
    try {
      // The TTL runs all the while, and the caller may leave.
      await within(request.ttl / 10, proof);
      return granted;
    } catch {
      await granted.release().catch(() => {});
    }
    await proof;
    return await this.#sessions.tryLock(request);
  }
}
