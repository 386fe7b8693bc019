import type { Pool } from "../postgres/driver.ts";
import { LocksKept } from "../postgres/lock-proof.ts";
import { type PingTarget, pingPool } from "../postgres/ping.ts";
import { queueOf } from "../postgres/pool-queue.ts";
import { endPool } from "../postgres/reservation.ts";
import { boundedWait } from "../postgres/session.ts";
import { within } from "../runtime/clock.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";
import { DedicatedSessions } from "./dedicated-sessions.ts";
import {
  type Grant,
  type LockRequest,
  type LockStore,
  promised,
  type Refusal,
  type TryListener,
  tell,
} from "./grant.ts";
import type { LockerStore } from "./locker-store.ts";
import { PoolLook } from "./pool-look.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { SharedSessions } from "./shared-sessions.ts";
import { WaitingSessions } from "./waiting-sessions.ts";

/** The least time for the proof that locks are kept, in milliseconds, however long the first grant took. */
const shortestProof = 100;

export interface PostgresStoreOptions {
  /** The pool on whose server locks live. */
  readonly pool: Pool;
  /** Whether the locker made the pool itself, and so ends it. */
  readonly ownsPool: boolean;
  /** The pool for reads, if that is another one. */
  readonly readPool: Pool | undefined;
  readonly namespace: number;
  /** The longest wait for a connection, in milliseconds; infinite: without a bound. */
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  readonly sessions: "dedicated" | "shared";
  readonly maxLocksPerSession: number;
  readonly tellKeys: boolean;
  readonly maxWaitingSessions: number;
  readonly ttlEnforcement: "client" | "server";
  readonly recovery: RecoveryGrace | undefined;
  readonly events: LockEventSource;
  /** Called when a place for a wait inside the server may have become free. */
  onPlaceFree(): void;
}

/** The store of a `PostgresLocker`: locks are session advisory locks. */
export class PostgresStore implements LockerStore {
  readonly #options: PostgresStoreOptions;
  readonly #sessions: DedicatedSessions | SharedSessions;
  readonly #waiting: WaitingSessions;
  readonly #locksKept: LocksKept;
  readonly #look: PoolLook;
  readonly #enforced: boolean;
  /** Whether a try for a lock may take a connection of the pool. */
  readonly #mayUsePool: boolean;
  #enforcing: PostgresStore | undefined;
  readonly #pools: readonly PingTarget[];
  readonly #ownPool: Pool | undefined;
  readonly #deadline: number;

  /** `main`: the locker's store, beside which this one is for locks whose TTL the server enforces. */
  constructor(options: PostgresStoreOptions, main?: PostgresStore) {
    this.#options = options;
    const { pool, readPool, sessions, maxLocksPerSession, maxWaitingSessions, tellKeys } = options;
    const trustPooler = options.pooler === "session";
    // Watches it from now on.
    queueOf(pool);
    this.#ownPool = options.ownsPool ? pool : undefined;
    this.#pools = [
      { pool, locksLiveHere: true, trustPooler },
      ...(readPool === undefined ? [] : [{ pool: readPool, locksLiveHere: false, trustPooler }]),
    ];
    this.#sessions =
      sessions === "shared"
        ? new SharedSessions({ ...options, maxLocksPerSession, tellKeys })
        : new DedicatedSessions(options);
    this.#enforced = options.ttlEnforcement === "server";
    this.#locksKept = main === undefined ? new LocksKept(pool) : main.#locksKept;
    this.#look = main === undefined ? new PoolLook(options) : main.#look;
    const onPlaceFree = (): void => options.onPlaceFree();
    this.#waiting =
      main === undefined
        ? new WaitingSessions({ ...options, maxWaitingSessions }, onPlaceFree)
        : main.#waiting;
    // Two sessions that carry locks would leave the application without a connection of a pool of two.
    this.#mayUsePool = main === undefined || pool.options.max > 2;
    this.#deadline = boundedWait(options.connWaitTimeout);
  }

  get enforcing(): LockStore<Grant> {
    if (this.#enforced) return this;
    this.#enforcing ??= new PostgresStore(
      { ...this.#options, ttlEnforcement: "server", ownsPool: false },
      this,
    );
    return this.#enforcing;
  }

  /** This one, and the one beside it. */
  get #stores(): readonly PostgresStore[] {
    return this.#enforcing === undefined ? [this] : [this, this.#enforcing];
  }

  canTry(): boolean {
    return this.#mayUsePool && this.#sessions.canTry();
  }

  tryLock(request: LockRequest, listener: TryListener<Grant>): void {
    if (this.#locksKept.areProven) this.#sessions.tryLock(request, listener);
    else tell(listener, this.#proveFirst(request, "tryLock"));
  }

  pollLock(request: LockRequest, listener: TryListener<Grant>): void {
    if (this.#locksKept.areProven) this.#sessions.pollLock(request, listener);
    else tell(listener, this.#proveFirst(request, "pollLock"));
  }

  get sessionCount(): number {
    return this.#stores.reduce((sum, store) => sum + store.#sessions.size, this.#waiting.size);
  }

  hasPlaceToWait(): boolean {
    return this.#waiting.hasPlace;
  }

  waitLock(request: LockRequest, bound: number, listener: TryListener<Grant>): void {
    const waiting = this.#locksKept.areProven
      ? this.#waiting.waitLock(request, { bound, enforced: this.#enforced })
      : this.#proveThenWait(request, bound);
    tell(listener, waiting);
  }

  /** The holder of an exclusive lock, if the server shows one. @throws {DatabaseError} */
  async holderOf(id: bigint) {
    const seen = await this.#look.holderOf(id);
    if (seen === undefined || "refused" in seen) return undefined;
    const { host, pid, since } = seen;
    return {
      host: host ?? undefined,
      pid: pid ?? undefined,
      sessionSince: since === null ? undefined : new Date(since),
    };
  }

  /** Which ids of a block of 2^`bits` are held by anybody, as offsets from the first. @throws {DatabaseError} */
  heldIn(first: bigint, { bits, left }: { bits: number; left: StopSignal }) {
    return this.#look.heldIn(first, { bits, left });
  }

  /** Proves that a lock could be acquired now. @throws what `locker.ping()` throws */
  async ping(): Promise<void> {
    await Promise.all(this.#pools.map((each) => pingPool(each, this.#deadline)));
  }

  /** Returns every session, and closes the connections that the locker opened. Never rejects, and takes seconds at most. */
  async close(): Promise<void> {
    await this.#look.close();
    await Promise.all(this.#stores.map((store) => store.#sessions.close()));
    await this.#waiting.close();
    if (this.#ownPool !== undefined) await endPool(this.#ownPool);
  }

  /** Proves the server before the wait, because a proof between a grant and its answer would delay all callers behind it. */
  async #proveThenWait(request: LockRequest, bound: number): Promise<Grant | Refusal> {
    const start = performance.now();
    await this.#locksKept.prove(Math.min(this.#deadline, bound));
    if (request.abandoned) return { refused: "abandoned" };
    const left = Math.max(start + bound - performance.now(), 1);
    return await this.#waiting.waitLock(request, { bound: left, enforced: this.#enforced });
  }

  /**
   * Hands out the first grant only after a proof that the server keeps its locks. If the proof takes long, the lock is released and
   * acquired anew afterwards.
   */
  async #proveFirst(request: LockRequest, how: "tryLock" | "pollLock"): Promise<Grant | Refusal> {
    const start = performance.now();
    const granted = await promised<Grant>((listener) => this.#sessions[how](request, listener));
    if ("refused" in granted) return granted;
    // The time for the proof is part of the wait for a connection, as is the time for the grant's session.
    const time = Math.max(start + this.#deadline - performance.now(), shortestProof);
    const { pid } = granted;
    const proof = this.#locksKept.prove(time, pid === undefined ? undefined : { id: request.wanted.id, pid });
    try {
      // During the proof the TTL runs, and the caller may give up.
      await within(request.wanted.ttl / 10, proof);
      return granted;
    } catch {
      await granted.release().catch(() => {});
    }
    await proof;
    return await promised<Grant>((listener) => this.#sessions.tryLock(request, listener));
  }
}
