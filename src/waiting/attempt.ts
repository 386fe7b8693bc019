import type { SessionClient } from "../contract/clients.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type { Logger } from "../contract/locker.ts";
import type { OwnHold } from "../contract/not-acquired-sentence.ts";
import { type CircuitBreaker, throughBreaker } from "../runtime/circuit-breaker.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import { callBegan, callEnded } from "../runtime/process-life.ts";
import { Link, type Stop, type StopSignal } from "../runtime/stop-signal.ts";
import {
  type LockRequest,
  type LockStore,
  promised,
  type Refusal,
  type TryListener,
  type WantedLock,
} from "../sessions/grant.ts";

/** What a caller asked for, checked. Times are in milliseconds. */
export interface Wanted extends WantedLock {
  readonly autoRefresh: boolean;
  /** Takes part in the lock of the function around it, if there is one. `undefined`: the call has no such option. */
  readonly reentrant: boolean | undefined;
  /** The session that is to have it; `undefined`: one of the locker's. */
  readonly client: SessionClient | undefined;
  /** 0: try once. */
  readonly wait: number;
  /** How long the caller has waited when this wait is over, if it is the rest of a longer one. */
  readonly wholeWait?: number;
  /** The caller's own. */
  readonly signal: StopSignal | undefined;
  /** Any other that ends the attempt. */
  readonly alsoEndedBy?: StopSignal | undefined;
  /** Whether the wait has no event. */
  readonly isSilent?: boolean;
}

/** A lock that can be given back if nobody wants it any more. */
export interface Granted {
  release(): Promise<unknown>;
}

/** What an attempt needs to know of the locks that its locker holds. */
export interface Holdings {
  /** Whether a holder of the key in this locker keeps the caller out, and the locker's admission will be told of its end. */
  keepOut(wanted: Pick<Lock, "key" | "id" | "mode">): boolean;
  /** Another key that is held in this locker and has the same id. */
  namesake(wanted: Pick<Lock, "key" | "id">): string | undefined;
  /** How this locker itself keeps the caller out, if it does. */
  ownHold(wanted: Pick<Lock, "key" | "id" | "mode">): OwnHold | undefined;
}

/** What an attempt needs of its locker. */
export interface AttemptSurroundings {
  readonly log: Logger;
  readonly breaker: CircuitBreaker | undefined;
  readonly registry: Holdings;
  /** Aborts when the locker closes. */
  readonly closing: Stop;
  /** Whether the database has ever answered. */
  hasConnected: boolean;
  /** close() waits for one thing more, and for one less. */
  began(): void;
  ended(): void;
}

/** Makes what the caller gets of a grant, and registers it; called in the same step in which it becomes certain that somebody wants it. */
export type Hold<G, H> = (grant: G, wanted: Wanted) => H;

/** How a store is asked. A number: it waits in the server, for at most that many milliseconds. */
export type How = "tryLock" | "pollLock" | number;

//   asking ──▶ told: granted, held, failed
//      └── its caller's signal, close(), the end of its wait ──▶ left, or if something was sent, awaited: close() waits for the answer,
//          and a lock that is granted all the same goes back
type State = "asking" | "told" | "left" | "awaited";

/**
 * One question to a store, from the call to the answer. It is the request that the store gets, the listener that is told the answer, and
 * the link in the ring of those that close() ends.
 */
export abstract class Attempt<G extends Granted, S extends AttemptSurroundings = AttemptSurroundings>
  extends Link
  implements LockRequest, TryListener<G>
{
  readonly wanted: Wanted;
  protected readonly surroundings: S;
  abandoned: boolean;
  sent: boolean;
  isRepeated: boolean;
  cancel: (() => void) | undefined;
  #state: State;
  /** Its links to signals, apart from close(). */
  #links: Link[] | undefined;

  constructor(wanted: Wanted, surroundings: S) {
    super();
    this.wanted = wanted;
    this.surroundings = surroundings;
    this.abandoned = false;
    this.sent = false;
    this.isRepeated = false;
    this.cancel = undefined;
    this.#state = "asking";
    this.#links = undefined;
  }

  // One of these is called, once. onGranted is called in the same step in which it becomes certain that somebody wants the lock; onHeld, if
  // somebody else holds it; onFailed, for a failure, or if the caller has left.
  protected abstract onGranted(grant: G): void;
  protected abstract onHeld(): void;
  protected abstract onFailed(error: unknown): void;

  /** Asks the store, unless one of the signals has aborted. */
  ask(store: LockStore<G>, how: How, signals?: ReadonlyArray<StopSignal | undefined>): void {
    const { closing, breaker } = this.surroundings;
    if (breaker !== undefined) callBegan();
    // A caller that acquires several may come to the next one after close().
    if (!closing.add(this)) this.#leave(closing.reason);
    if (signals !== undefined) for (const signal of signals) this.#endOn(signal);
    if (this.#state !== "asking") return;
    if (breaker !== undefined) this.#askThrough(breaker, store, how);
    else if (how === "tryLock") store.tryLock(this, this);
    else askStore(store, this, how, this);
  }

  /** The breaker may take its time: a half-open policy lets one call through first. */
  #askThrough(breaker: CircuitBreaker, store: LockStore<G>, how: How): void {
    const asked = throughBreaker(breaker, () =>
      this.abandoned ? abandoned : promised<G>((listener) => askStore(store, this, how, listener)),
    );
    asked.then(
      (answer) => ("refused" in answer ? this.refused(answer) : this.granted(answer)),
      (error: unknown) => this.failed(error),
    );
  }

  #endOn(signal: StopSignal | undefined): void {
    if (signal === undefined || this.#state !== "asking") return;
    this.#links ??= [];
    this.#links.push(signal.listen(() => this.#leave(signal.reason)));
    // A signal may abort at the very moment it is asked.
    if (signal.aborted) this.#leave(signal.reason);
  }

  /** close() */
  override onAbort(): void {
    this.#leave(this.surroundings.closing.reason);
  }

  #leave(reason: unknown): void {
    if (this.#state !== "asking") return;
    this.#end("left");
    if (isDebugged) debug("abandoned", { key: this.wanted.key, sent: this.sent });
    this.abandoned = true;
    this.cancel?.();
    // While it still waits for a connection, perhaps for long, there is nothing to undo.
    if (this.sent) {
      this.#state = "awaited";
      this.surroundings.began();
    }
    this.onFailed(reason);
  }

  granted(grant: G): void {
    if (this.#state !== "asking") {
      void this.#giveBackWhatWasLeft(grant);
      return;
    }
    this.#end("told");
    if (isDebugged) debug("granted", { key: this.wanted.key });
    this.surroundings.hasConnected = true;
    try {
      this.onGranted(grant);
    } catch (error) {
      void this.#failAfter(undo(grant, this.surroundings), error);
    }
  }

  async #giveBackWhatWasLeft(grant: G): Promise<void> {
    await undo(grant, this.surroundings);
    this.#answeredLate();
  }

  async #failAfter(undone: Promise<void>, error: unknown): Promise<void> {
    await undone;
    this.onFailed(error);
  }

  refused(refusal: Refusal): void {
    if (this.#state !== "asking") {
      this.#answeredLate();
      return;
    }
    this.#end("told");
    const { key } = this.wanted;
    if (isDebugged) debug("refused", { key, ...refusal });
    if (refusal.refused === "pool-saturated") {
      this.onFailed(new LockNotAcquiredError({ key, reason: refusal.refused, waited: refusal.waited }));
      return;
    }
    if (refusal.refused !== "abandoned") this.surroundings.hasConnected = true;
    if (refusal.refused === "recovering") {
      this.onFailed(new LockNotAcquiredError({ key, reason: refusal.refused, graceLeft: refusal.graceLeft }));
      return;
    }
    const otherKey = this.surroundings.registry.namesake(this.wanted);
    if (otherKey === undefined) this.onHeld();
    else this.onFailed(new LockNotAcquiredError({ key, reason: "id-collision", otherKey }));
  }

  failed(error: unknown): void {
    if (this.#state !== "asking") {
      this.#answeredLate();
      return;
    }
    this.#end("told");
    this.onFailed(error);
  }

  /** From now on nothing else ends it. */
  #end(state: "told" | "left"): void {
    this.#state = state;
    if (this.surroundings.breaker !== undefined) callEnded();
    this.cut();
    if (this.#links !== undefined) for (const link of this.#links) link.cut();
  }

  #answeredLate(): void {
    if (this.#state === "awaited") this.surroundings.ended();
  }
}

function askStore<G extends Granted>(
  store: LockStore<G>,
  request: LockRequest,
  how: How,
  listener: TryListener<G>,
): void {
  if (how === "pollLock" && store.pollLock !== undefined) store.pollLock(request, listener);
  else if (typeof how === "number" && store.waitLock !== undefined) store.waitLock(request, how, listener);
  else store.tryLock(request, listener);
}

/** Gives back what was granted to a caller that has given up. A failure has ended the session, and the lock with it. */
async function undo(grant: Granted, { log }: AttemptSurroundings): Promise<void> {
  try {
    await grant.release();
  } catch (err) {
    log.debug({ err }, "giving back an abandoned lock failed; its session was ended");
  }
}

const abandoned: Promise<Refusal> = Promise.resolve({ refused: "abandoned" });
