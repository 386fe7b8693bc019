import type { LockMode } from "../contract/locker.ts";
import { proving } from "../postgres/sql-shared.ts";
import { type Instant, within } from "../runtime/clock.ts";
import type { GoneListener, Grant } from "./grant.ts";
import type { Carried, SharedSession } from "./shared-session.ts";
import type { Done, Outcome } from "./statement-batches.ts";

/** A lock that one of the sessions has in the server, or is about to have, or to have had. */
export interface Entry {
  readonly id: bigint;
  readonly key: string;
  readonly mode: LockMode;
  readonly session: SharedSession;
  /** More than one where it is shared: the server has it once. */
  holders: readonly SharedLock[];
  /** Settles when it is known whether the server has it; `undefined` while it does. */
  settling: Promise<unknown> | undefined;
  /** The same lock on another session, because the TTLs of those who share it are too far apart for one. */
  beside: Entry | undefined;
}

/** Gives back in the server what nobody holds any more. */
interface Releasing {
  release(entry: Entry, lock: SharedLock): Promise<void>;
}

/** A lock that a shared session carries, or is to carry, for one holder. */
export class SharedLock implements Grant, Carried {
  readonly #sessions: Releasing;
  readonly #entry: Entry;
  #listener: GoneListener | undefined;
  readonly lapses: boolean;
  carriedFor: number | undefined;
  provenWithin: number | undefined;
  #lostBecause: Error | undefined;
  fencingToken: bigint | undefined;
  #releasing: Promise<void> | undefined;

  constructor(sessions: Releasing, entry: Entry, lapses: boolean) {
    this.#sessions = sessions;
    this.#entry = entry;
    this.lapses = lapses;
  }

  granted(): this {
    const { holders } = this.#entry;
    if (holders.length === 0) this.#entry.holders = [this];
    else if (!holders.includes(this)) this.#entry.holders = [...holders, this];
    return this;
  }

  /** Its session has gone. */
  lost(cause: Error): void {
    this.#lostBecause = cause;
    this.#listener?.gone(cause);
  }

  overdue(): void {
    this.#listener?.overdue();
  }

  get provenAt(): Instant {
    return this.#entry.session.provenAt;
  }

  /** Which server has granted it. */
  get server(): string {
    return this.#entry.session.server;
  }

  get goneBecause(): Error | undefined {
    return this.#lostBecause ?? this.#entry.session.goneBecause;
  }

  keepProven(ttl: number | undefined): void {
    this.#entry.session.keepProven(this, ttl);
  }

  onGone(listener: GoneListener): void {
    const gone = this.#lostBecause;
    if (gone === undefined) this.#listener = listener;
    else queueMicrotask(() => listener.gone(gone));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    const { session } = this.#entry;
    session.carry(this, ttl);
    try {
      const done = await within(deadline, session.ask(proving, this.#entry));
      if (isDone(done)) return done.sentAt;
      throw new Error("the session was not to be had");
    } catch (error) {
      // Its holder believes no more. The session may well live, and the others on it.
      this.release().catch(() => {});
      throw error;
    }
  }

  /** Once, whoever asks: a refresh without an answer, or the holder. By then, the lock in the server may be another's. */
  release(): Promise<void> {
    this.#releasing ??= this.#sessions.release(this.#entry, this);
    return this.#releasing;
  }
}

/** The sessions of one lock, from the first in the books on. */
export function* withThoseBeside(first: Entry | undefined): Generator<Entry> {
  for (let entry = first; entry !== undefined; entry = entry.beside) yield entry;
}

export function isDone(outcome: Outcome): outcome is Done {
  return typeof outcome === "object" && "answer" in outcome;
}
