import { type Channel, channel } from "node:diagnostics_channel";
import { InvalidConfigError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type {
  LockEvent,
  LockEventListener,
  LockEventName,
  LockEvents,
  SessionEvent,
} from "../contract/lock-events.ts";
import { callHook } from "./user-hook.ts";

/** Of all lockers of the process. */
export const channels: Record<LockEventName, Channel> = {
  acquired: channel("pg-locker:acquired"),
  released: channel("pg-locker:released"),
  lost: channel("pg-locker:lost"),
  waiting: channel("pg-locker:waiting"),
  sessionOpened: channel("pg-locker:sessionOpened"),
  sessionClosed: channel("pg-locker:sessionClosed"),
};

type ToldLock = Pick<Lock, "key" | "id" | "ttl">;
type AnyListener = (event: never) => void;

/** Tells what happens to the locks and sessions of one locker. Without anybody who listens, nothing is made that could be told. */
export class LockEventSource {
  readonly namespace: number;
  /** Empty, mostly: whoever may tell something looks at this and at {@link channels} first, and goes on. */
  readonly listeners = new Map<LockEventName, Set<{ call: AnyListener }>>();

  constructor(namespace: number) {
    this.namespace = namespace;
  }

  /** @throws {InvalidConfigError} */
  on<E extends LockEventName>(event: E, listener: LockEventListener<E>): () => void {
    if (!Object.hasOwn(channels, event)) {
      const wants = `one of ${Object.keys(channels).join(", ")}`;
      throw new InvalidConfigError({ field: "event", got: event, wants });
    }
    if (typeof listener !== "function") {
      throw new InvalidConfigError({ field: "listener", got: listener, wants: "a function" });
    }
    const listeners = this.listeners.get(event) ?? new Set();
    this.listeners.set(event, listeners);
    // One function may be given twice, and each time be taken back by itself.
    const entry = { call: listener };
    listeners.add(entry);
    return () => {
      listeners.delete(entry);
      if (listeners.size === 0) this.listeners.delete(event);
    };
  }

  hasListeners(event: LockEventName): boolean {
    return this.listeners.has(event) || channels[event].hasSubscribers;
  }

  tell<E extends LockEventName>(event: E, make: () => LockEvents[E]): void {
    if (!this.hasListeners(event)) return;
    const told = make();
    for (const { call } of this.listeners.get(event) ?? []) {
      callHook(`listener of "${event}"`, () => (call as LockEventListener<E>)(told));
    }
    // Node.js keeps what a subscriber throws from us.
    if (channels[event].hasSubscribers) channels[event].publish(told);
  }

  /** `start`: of the call, by `performance.now()`. */
  acquired(lock: ToldLock & Pick<Lock, "mode" | "fencingToken">, start: number): void {
    const { mode, fencingToken } = lock;
    const waited = performance.now() - start;
    const facts = this.#factsOf(lock);
    this.#tellSoon("acquired", () => ({ ...facts, mode, waited, fencingToken }));
  }

  /** Holding has ended. `reason`: `undefined` for a release. */
  ended(lock: ToldLock, reason: Error | undefined): void {
    const facts = this.#factsOf(lock);
    if (reason === undefined) this.#tellSoon("released", () => facts);
    // A session that dies takes a thousand locks: every holder is told before the first listener.
    else if (this.hasListeners("lost")) setImmediate(() => this.tell("lost", () => ({ ...facts, reason })));
  }

  waiting(wanted: ToldLock & Pick<Lock, "mode">): void {
    this.#tellSoon("waiting", () => ({ ...this.#factsOf(wanted), mode: wanted.mode }));
  }

  #factsOf({ key, id, ttl }: ToldLock): LockEvent {
    return { namespace: this.namespace, key, id, ttl };
  }

  sessionOpened(use: SessionEvent["use"], pid: number): void {
    const { namespace } = this;
    this.#tellSoon("sessionOpened", () => ({ namespace, pid, use }));
  }

  sessionClosed(use: SessionEvent["use"], pid: number, reason: Error | undefined): void {
    const { namespace } = this;
    this.#tellSoon("sessionClosed", () => ({ namespace, pid, use, reason }));
  }

  /** When whoever tells is at rest: a listener may call anything. */
  #tellSoon<E extends LockEventName>(event: E, make: () => LockEvents[E]): void {
    if (this.hasListeners(event)) queueMicrotask(() => this.tell(event, make));
  }
}
