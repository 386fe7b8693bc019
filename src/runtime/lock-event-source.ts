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
import { monotonic, setImmediate, soon } from "./clock.ts";
import { callOutside } from "./outside-callers.ts";
import { callHook } from "./user-hook.ts";

/** The diagnostics channels, on which the events of all lockers of the process are published. */
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

/** Emits the events of one locker's locks and sessions. An event object is created only if somebody listens. */
export class LockEventSource {
  readonly namespace: number;
  /** The listeners by event. Usually empty, so callers check it and {@link channels} before they build an event. */
  readonly listeners = new Map<LockEventName, Set<{ call: AnyListener }>>();

  /** The events to emit after this turn of the event loop, in order. */
  readonly #afterTurn: (() => void)[] = [];

  constructor(namespace: number) {
    this.namespace = namespace;
  }

  /** Adds a listener. Returns a function that removes it. @throws {InvalidConfigError} */
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
    // One function may be added twice, and each addition is removed by itself.
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
    callOutside(() => {
      for (const { call } of this.listeners.get(event) ?? []) {
        callHook(`listener of "${event}"`, () => (call as LockEventListener<E>)(told));
      }
      // An error of a subscriber isn't thrown here: Node.js throws it later, as an `uncaughtException`
      // (https://nodejs.org/api/diagnostics_channel.html#channelpublishmessage).
      if (channels[event].hasSubscribers) channels[event].publish(told);
    });
  }

  /** Emits `acquired`. `start`: when the call began, by {@link monotonic}. */
  acquired(lock: ToldLock & Pick<Lock, "mode" | "fencingToken">, start: number): void {
    const { mode, fencingToken } = lock;
    const waited = monotonic() - start;
    const facts = this.#factsOf(lock);
    this.#tellSoon("acquired", () => ({ ...facts, mode, waited, fencingToken }));
  }

  /** Emits `released` if `reason` is `undefined`, otherwise `lost`. */
  ended(lock: ToldLock, reason: Error | undefined): void {
    const facts = this.#factsOf(lock);
    if (reason === undefined) this.#tellSoon("released", () => facts);
    // A session that dies may take a thousand locks with it: every holder is told before the first listener is called.
    else if (this.hasListeners("lost"))
      this.#tellAfterTurn(() => this.tell("lost", () => ({ ...facts, reason })));
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

  #tellAfterTurn(tell: () => void): void {
    this.#afterTurn.push(tell);
    if (this.#afterTurn.length > 1) return;
    setImmediate(() => {
      for (const each of this.#afterTurn.splice(0)) each();
    });
  }

  /** Emits an event once the current call has finished, because a listener may call anything. */
  #tellSoon<E extends LockEventName>(event: E, make: () => LockEvents[E]): void {
    if (!this.hasListeners(event)) return;
    const tell = (): void => this.tell(event, make);
    // Keeps the order: the loss of a lock is reported before its acquisition by the next holder.
    if (this.#afterTurn.length > 0) this.#tellAfterTurn(tell);
    else soon(tell);
  }
}
