import type { Lock } from "../contract/lock.ts";
import { placeOf, turnstile } from "../contract/permit-block.ts";
import { abandonOnAbort, Stop, type StopSignal } from "../runtime/stop-signal.ts";

/** Which places of a semaphore are held by anybody, and whether its turnstile is: offsets from the first id of its block. */
export type Seen = ReadonlySet<number>;

/** The state of a semaphore that is in use in this process. */
export class Places {
  readonly permits: number;
  /** How many callers are acquiring a permit. */
  users = 0;
  /** How many of these callers are waiting, including the one at the head of the line. */
  waiting = 0;
  /** Aborts when the semaphore is no longer in use, so that no query waits for a connection any more. */
  readonly left = new Stop();
  readonly #ask: (left: StopSignal) => Promise<Seen>;
  readonly #held = new Map<number, HeldPlace>();
  readonly #trying = new Set<number>();
  #running: Promise<Seen> | undefined;
  /** The query that has been requested but not sent yet. */
  #next: Promise<Seen> | undefined;
  /** How often a permit was released in this process. */
  #freed = 0;
  #onFreed: (() => void) | undefined;

  /** `ask` queries the server once. */
  constructor(permits: number, ask: (left: StopSignal) => Promise<Seen>) {
    this.permits = permits;
    this.#ask = ask;
  }

  get isUsed(): boolean {
    return this.users > 0 || this.#held.size > 0;
  }

  /**
   * Queries the semaphore's state with a statement that is sent after this call. All callers before the sending share one statement, so
   * only one is in flight at a time, however many callers there are.
   */
  look(): Promise<Seen> {
    if (this.#next !== undefined) return this.#next;
    const before = this.#running ?? Promise.resolve();
    const look = before.then(nothing, nothing).then(() => {
      this.#running = look;
      this.#next = undefined;
      return this.#ask(this.left);
    });
    this.#next = look;
    const over = (): void => {
      if (this.#running === look) this.#running = undefined;
    };
    look.then(over, over);
    return look;
  }

  /** Picks a free place that nobody in this process is trying for, at random, so that simultaneous callers don't collide. */
  pickFree(seen: Seen): number | undefined {
    const free: number[] = [];
    for (let place = 0; place < this.permits; place += 1) {
      const at = placeOf(this.permits, place);
      if (!seen.has(at) && !this.#trying.has(at)) free.push(at);
    }
    return free[Math.floor(Math.random() * free.length)];
  }

  /** Whether somebody is already waiting, in this process or elsewhere, so that new callers must wait behind. */
  isQueued(seen: Seen): boolean {
    return this.waiting > 0 || seen.has(turnstile);
  }

  /** Runs `work` while nobody else in this process tries for the place. */
  async reserve<T>(at: number, work: () => Promise<T>): Promise<T> {
    this.#trying.add(at);
    try {
      return await work();
    } finally {
      this.#trying.delete(at);
    }
  }

  hold(at: number, permit: Lock): void {
    // A permit that has already ended was reported as freed before this call.
    if (permit.held || permit.expired) this.#held.set(at, { permit: new WeakRef(permit), isProved: false });
  }

  /** Records that a query sent after the grant has shown no holder with another number of permits. */
  prove(at: number): void {
    const held = this.#held.get(at);
    if (held !== undefined) held.isProved = true;
  }

  /**
   * Whether this process holds a proved permit, which callers with another number of permits will see. A permit counts only until its
   * release begins, because after that it may be free.
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

  /** Waits the given number of milliseconds, or until a permit has been released in this process since `since`, whichever comes first. */
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
  /** A weak reference, so that the locker notices if the handle is garbage-collected without a release. */
  readonly permit: WeakRef<Lock>;
  isProved: boolean;
}

function nothing(): void {}
