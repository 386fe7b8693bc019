import { setMaxListeners } from "node:events";
import { abandonOnAbort } from "./abandon.ts";
import { type CircuitBreaker, throughBreaker } from "./circuit-breaker.ts";
import { LockerClosedError, LockNotAcquiredError } from "./errors.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import { HeldLock, type Keeper } from "./held-lock.ts";
import { lockId } from "./lock-id.ts";
import type { AcquireOptions, Lock, Locker, PingOptions, TryResult } from "./locker.ts";
import { assertAcquireOptions, assertTtl, signalOf } from "./options.ts";
import type { Telemetry } from "./telemetry.ts";
import { runUnder } from "./with-lock.ts";

interface Wanted extends LockRequest {
  readonly signal: AbortSignal | undefined;
  readonly autoRefresh: boolean;
}

/**
 * What is the same wherever locks live: options in, handles out, the books of what is held, and an end that leaves
 * nothing behind. A subclass grants.
 */
export abstract class BaseLocker implements Locker {
  readonly #namespace: number;
  readonly #telemetry: Telemetry;
  readonly #breaker: CircuitBreaker | undefined;
  readonly #closing = new AbortController();
  /** Every handle whose lock the server still has, in the order of its grant. */
  readonly #held = new Set<HeldLock>();
  /** Acquires until they have an answer, and then, where their caller has given up, until that is undone. */
  readonly #underWay = new Set<Promise<unknown>>();
  readonly #keeper: Keeper;
  #closed: Promise<void> | undefined;

  constructor(parts: {
    namespace: number;
    telemetry: Telemetry;
    breaker?: CircuitBreaker | undefined;
  }) {
    // Every acquire under way listens to it, and Node warns of a leak from eleven listeners on.
    setMaxListeners(0, this.#closing.signal);
    this.#namespace = parts.namespace;
    this.#telemetry = parts.telemetry;
    this.#breaker = parts.breaker;
    this.#keeper = {
      telemetry: parts.telemetry,
      breaker: parts.breaker,
      forget: (lock) => this.#held.delete(lock),
    };
    // So that `const { acquire } = locker` works.
    this.acquire = this.acquire.bind(this);
    this.tryAcquire = this.tryAcquire.bind(this);
    this.withLock = this.withLock.bind(this);
    this.tryWithLock = this.tryWithLock.bind(this);
    this.ping = this.ping.bind(this);
    this.close = this.close.bind(this);
  }

  /** Takes the lock if it is free, without waiting for its holder. Throws only what the database did wrong. */
  protected abstract tryLock(request: LockRequest): Promise<Grant | Refusal>;
  protected abstract probe(): Promise<void>;
  /** Ends what the locker opened. Must not reject, and must not take longer than seconds. */
  protected abstract end(): Promise<void>;

  async acquire(key: string, options: AcquireOptions = {}): Promise<Lock> {
    const wanted = this.#wanted(key, options);
    return this.#telemetry.observe("acquire", wanted, wanted.signal, async () => {
      wanted.signal?.throwIfAborted();
      return this.#track(this.#take(wanted));
    });
  }

  async tryAcquire(key: string, options?: AcquireOptions): Promise<Lock | undefined> {
    try {
      return await this.acquire(key, options);
    } catch (error) {
      if (error instanceof LockNotAcquiredError && error.reason === "held") return undefined;
      throw error;
    }
  }

  async withLock<T>(key: string, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    return runUnder(await this.acquire(key, { autoRefresh: true, ...options }), fn);
  }

  async tryWithLock<T>(
    key: string,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    const lock = await this.tryAcquire(key, { autoRefresh: true, ...options });
    return lock === undefined ? { acquired: false } : { acquired: true, value: await runUnder(lock, fn) };
  }

  async ping(options: PingOptions = {}): Promise<void> {
    this.#assertOpen();
    const signal = signalOf(options);
    await this.#telemetry.observe("ping", undefined, signal, async () => {
      signal?.throwIfAborted();
      await abandonOnAbort(this.probe(), [signal]);
    });
  }

  close(): Promise<void> {
    this.#closed ??= this.#telemetry.observe("close", undefined, undefined, async () => {
      this.#closing.abort(new LockerClosedError());
      await Promise.all([...this.#held].map((lock) => lock.close()));
      await Promise.allSettled(this.#underWay);
      await this.end();
    });
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #assertOpen(): void {
    this.#closing.signal.throwIfAborted();
  }

  #wanted(key: string, options: AcquireOptions): Wanted {
    this.#assertOpen();
    const id = lockId(this.#namespace, key);
    const { ttl = "30s", mode = "exclusive", signal, autoRefresh = false } = assertAcquireOptions(options);
    return { key, id, mode, ttl: assertTtl(ttl), signal, autoRefresh, abandoned: false, sent: false };
  }

  async #take(wanted: Wanted): Promise<Lock> {
    const attempt = throughBreaker(this.#breaker, () => this.tryLock(wanted));
    const answer = await abandonOnAbort(attempt, [wanted.signal, this.#closing.signal], () => {
      wanted.abandoned = true;
      const undone = attempt.then((late) => this.#undo(late));
      undone.catch(() => {});
      // While it waits for a connection, perhaps for long, it has nothing to undo.
      if (wanted.sent) void this.#track(undone);
    });
    if (this.#closing.signal.aborted) {
      // close() came between the answer and this line, and found no handle to close.
      await this.#undo(answer);
      throw this.#closing.signal.reason;
    }
    if ("refused" in answer) throw this.#refusal(wanted, answer);
    const lock = new HeldLock(wanted, answer, this.#keeper);
    this.#held.add(lock);
    return lock;
  }

  /** Gives back what was granted to a caller that has given up. A failure has ended the session, and the lock with it. */
  async #undo(answer: Grant | Refusal): Promise<void> {
    if ("refused" in answer) return;
    await answer.release().catch((err: unknown) => {
      this.#telemetry.log.debug({ err }, "giving back an abandoned lock failed; its session was ended");
    });
  }

  /** `close()` waits for what is tracked. */
  #track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const done = (): boolean => this.#underWay.delete(work);
    work.then(done, done);
    return work;
  }

  #refusal(wanted: Wanted, refusal: Refusal): LockNotAcquiredError {
    const { key } = wanted;
    if (refusal.refused === "pool-saturated") {
      return new LockNotAcquiredError({ key, reason: refusal.refused, waited: refusal.waited });
    }
    for (const other of this.#held) {
      if (other.id === wanted.id && other.key !== key) {
        return new LockNotAcquiredError({ key, reason: "id-collision", otherKey: other.key });
      }
    }
    return new LockNotAcquiredError({ key, reason: "held" });
  }
}
