import type { LockMode } from "../contract/locker.ts";
import type { WakeUps } from "../postgres/release-listener.ts";
import { abandonOnAbort, type StopSignal } from "../runtime/stop-signal.ts";

/** What a waiter does when it is its turn. */
export interface Turn<T> {
  readonly id: bigint;
  readonly mode: LockMode;
  /** Any of them ends the wait. */
  readonly signals: ReadonlyArray<StopSignal | undefined>;
  /** Whether the lock is held in this locker, so that a try would be for nothing; `wake` is called when that ends. */
  heldHere(): boolean;
  /** Tries once; `undefined` where the lock is held. */
  attempt(): Promise<T | undefined>;
}

/** Milliseconds between two looks at a lock whose release nobody tells of, its holder having crashed. */
const poll = { shortest: 500, longest: 1_000 };
/** With more lines than this, polls are further apart, so that together they stay as few. */
const linesPolled = 50;

/**
 * The callers of one locker that wait, in a line for each lock. Only the first of a line goes to the database; it sleeps
 * there without a session, until it is told of a release or it is time to look again.
 */
export class Waiters {
  readonly #lines = new Map<bigint, Line>();
  readonly #wakeUps: WakeUps;

  constructor(wakeUps: WakeUps) {
    this.#wakeUps = wakeUps;
  }

  /**
   * Waits in line until an attempt answers.
   *
   * @throws the `reason` of the first signal to abort, or what the attempt throws; the next in line then has its turn
   */
  async wait<T>(turn: Turn<T>): Promise<T> {
    const { id, signals } = turn;
    const line = this.#lines.get(id) ?? new Line();
    this.#lines.set(id, line);
    const place = line.join(turn.mode);
    try {
      await abandonOnAbort(place.first, signals);
      for (;;) {
        line.stayAwake();
        if (!turn.heldHere()) {
          const answer = await turn.attempt();
          if (answer !== undefined) return answer;
          // Once it watches, that wakes this line: a release before then may have gone unheard.
          this.#wakeUps.watch(id);
        }
        await abandonOnAbort(line.sleep(this.#untilNextLook()), signals);
      }
    } finally {
      // Who got the lock needs to hear of no release but its own. The next in line watches if it has to.
      if (line.leave(place)) this.#wakeUps.unwatch(id);
      if (line.isEmpty) this.#lines.delete(id);
    }
  }

  /** The lock may be free: whoever is first in line looks at once, or once more after the look that is under way. */
  wake(id: bigint): void {
    this.#lines.get(id)?.wake();
  }

  wakeAll(): void {
    for (const line of this.#lines.values()) line.wake();
  }

  /** Whether somebody in this process waits to hold the lock alone. */
  hasWriter(id: bigint): boolean {
    return this.#lines.get(id)?.hasWriter ?? false;
  }

  #untilNextLook(): number {
    const jittered = poll.shortest + Math.random() * (poll.longest - poll.shortest);
    return jittered * Math.max(1, this.#lines.size / linesPolled);
  }
}

interface Place {
  readonly mode: LockMode;
  /** Settles when the place is the first of its line. */
  readonly first: Promise<void>;
  readonly advance: () => void;
}

/** In order of arrival. Only the first one sleeps and is woken; the others just stand. */
class Line {
  readonly #places = new Set<Place>();
  #woken = false;
  #wakeSleeper: (() => void) | undefined;

  get isEmpty(): boolean {
    return this.#places.size === 0;
  }

  get hasWriter(): boolean {
    for (const { mode } of this.#places) if (mode === "exclusive") return true;
    return false;
  }

  join(mode: LockMode): Place {
    let advance = (): void => {};
    const first = new Promise<void>((resolve) => {
      advance = resolve;
    });
    const place = { mode, first, advance };
    this.#places.add(place);
    if (this.#places.size === 1) advance();
    return place;
  }

  /** @returns whether it was the first */
  leave(place: Place): boolean {
    const [first] = this.#places;
    this.#places.delete(place);
    if (place !== first) return false;
    this.#wakeSleeper?.();
    const [next] = this.#places;
    next?.advance();
    return true;
  }

  /** To be called before a look: a wake-up from now on keeps {@link sleep} from sleeping. */
  stayAwake(): void {
    this.#woken = false;
  }

  wake(): void {
    this.#woken = true;
    this.#wakeSleeper?.();
  }

  /** Sleeps until {@link wake}, at most so many milliseconds; not at all where it was woken since {@link stayAwake}. */
  sleep(longest: number): Promise<void> {
    if (this.#woken) return Promise.resolve();
    return new Promise((resolve) => {
      const wakeUp = (): void => {
        clearTimeout(timer);
        this.#wakeSleeper = undefined;
        resolve();
      };
      // It keeps the process alive: somebody waits for the answer.
      const timer = setTimeout(wakeUp, longest);
      this.#wakeSleeper = wakeUp;
    });
  }
}
