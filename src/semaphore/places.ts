import type { Lock } from "../contract/lock.ts";
import { abandonOnAbort, type StopSignal } from "../runtime/stop-signal.ts";
import { placeOf, turnstile } from "./permit-block.ts";

/** What a look at a semaphore showed: the places that anybody holds, and the turnstile, counted from the first id of its block. */
export type Seen = ReadonlySet<number>;

/** What one process knows of a semaphore that it uses at this moment. */
export class Places {
  readonly permits: number;
  /** How many callers are at it. */
  users = 0;
  /** How many of them stand in the line, or at its head. */
  waiting = 0;
  readonly #ask: () => Promise<Seen>;
  readonly #held = new Map<number, HeldPlace>();
  readonly #trying = new Set<number>();
  #running: Promise<Seen> | undefined;
  /** The look that is asked for, and not sent yet. */
  #next: Promise<Seen> | undefined;
  /** How often a place here was given back. */
  #freed = 0;
  #onFreed: (() => void) | undefined;

  /** `ask` looks once. */
  constructor(permits: number, ask: () => Promise<Seen>) {
    this.permits = permits;
    this.#ask = ask;
  }

  get isUsed(): boolean {
    return this.users > 0 || this.#held.size > 0;
  }

  /**
   * Looks, with a statement that is sent after this call. All who ask before it is sent get the same one, so that however many they are,
   * one at a time is under way.
   */
  look(): Promise<Seen> {
    if (this.#next !== undefined) return this.#next;
    const before = this.#running ?? Promise.resolve();
    const look = before.then(nothing, nothing).then(() => {
      this.#running = look;
      this.#next = undefined;
      return this.#ask();
    });
    this.#next = look;
    const over = (): void => {
      if (this.#running === look) this.#running = undefined;
    };
    look.then(over, over);
    return look;
  }

  /** One of the places that were free, and that nobody here tries for; any of them, so that those who come together don't meet. */
  pickFree(seen: Seen): number | undefined {
    const free: number[] = [];
    for (let place = 0; place < this.permits; place += 1) {
      const at = placeOf(this.permits, place);
      if (!seen.has(at) && !this.#trying.has(at)) free.push(at);
    }
    return free[Math.floor(Math.random() * free.length)];
  }

  /** Whether somebody waits before all who come, here or as was seen. */
  isQueued(seen: Seen): boolean {
    return this.waiting > 0 || seen.has(turnstile);
  }

  /** Nobody here tries for a place while `work` is under way. */
  async reserve<T>(at: number, work: () => Promise<T>): Promise<T> {
    this.#trying.add(at);
    try {
      return await work();
    } finally {
      this.#trying.delete(at);
    }
  }

  hold(at: number, permit: Lock): void {
    // What has gone already was told to be free before.
    if (permit.held || permit.expired) this.#held.set(at, { permit: new WeakRef(permit), isProved: false });
  }

  /** A look that was sent after the grant has shown nobody with another number of permits. */
  prove(at: number): void {
    const held = this.#held.get(at);
    if (held !== undefined) held.isProved = true;
  }

  /**
   * Whether a permit is held here that was proved: whoever comes with another number of permits sees that one. Only one whose release
   * has not begun is surely held.
   */
  get isBacked(): boolean {
    for (const { permit, isProved } of this.#held.values()) if (isProved && permit.deref()?.held) return true;
    return false;
  }

  freed(at: number): void {
    this.#held.delete(at);
    this.#freed += 1;
    this.#onFreed?.();
  }

  get timesFreed(): number {
    return this.#freed;
  }

  /** Waits so many milliseconds, or until a place here was given back after `since`, whichever comes first. */
  async rest(
    milliseconds: number,
    since: number,
    signals: ReadonlyArray<StopSignal | undefined>,
  ): Promise<void> {
    if (this.#freed !== since) return;
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<void>((resolve) => {
      this.#onFreed = resolve;
      timer = setTimeout(resolve, milliseconds);
    });
    try {
      await abandonOnAbort(over, signals);
    } finally {
      clearTimeout(timer);
      this.#onFreed = undefined;
    }
  }
}

interface HeldPlace {
  /** Its handle may be lost without a release, which the locker is to notice. */
  readonly permit: WeakRef<Lock>;
  isProved: boolean;
}

function nothing(): void {}
