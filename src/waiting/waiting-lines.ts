import type { LockMode } from "../contract/locker.ts";
import { Queue, type Queued } from "../runtime/queue.ts";

/** Where a caller stands among those of its process that wait for the same lock. */
export interface Place {
  readonly id: bigint;
  readonly mode: LockMode;
  /** Whether nobody stands before it. */
  readonly isFirst: boolean;
  /** Resolves when it may go to the database: nobody is before it, or they are readers, as it is, who have just been let in. */
  readonly turn: Promise<void>;
}

class Waiter implements Place {
  readonly id: bigint;
  readonly mode: LockMode;
  readonly turn: Promise<void>;
  readonly line: Line;
  readonly advance: () => void;
  queued: Queued<Waiter> | undefined;

  constructor(id: bigint, mode: LockMode, line: Line) {
    this.id = id;
    this.mode = mode;
    this.line = line;
    let advance = (): void => {};
    this.turn = new Promise<void>((resolve) => {
      advance = resolve;
    });
    this.advance = advance;
  }

  get isFirst(): boolean {
    return this.line.waiters.first === this;
  }
}

interface Line {
  readonly waiters: Queue<Waiter>;
  writers: number;
}

/** The callers of one locker that wait, in a line for each lock, in order of arrival. */
export class WaitingLines {
  readonly #lines = new Map<bigint, Line>();

  join(id: bigint, mode: LockMode): Place {
    const line = this.#lines.get(id) ?? { waiters: new Queue<Waiter>(), writers: 0 };
    this.#lines.set(id, line);
    const waiter = new Waiter(id, mode, line);
    waiter.queued = line.waiters.push(waiter);
    if (mode === "exclusive") line.writers += 1;
    if (waiter.isFirst) waiter.advance();
    return waiter;
  }

  /** `granted`: it has got the lock. Readers that stand behind a reader who has may all try at once. */
  leave(place: Place, granted: boolean): void {
    const waiter = place as Waiter;
    const { line, queued } = waiter;
    if (queued === undefined || !queued.isQueued) return;
    line.waiters.remove(queued);
    if (waiter.mode === "exclusive") line.writers -= 1;
    if (line.waiters.size === 0) this.#lines.delete(waiter.id);
    line.waiters.first?.advance();
    if (!granted || waiter.mode === "exclusive") return;
    for (const next of line.waiters) {
      if (next.mode === "exclusive") break;
      next.advance();
    }
  }

  /** How many wait. */
  lengthOf(id: bigint): number {
    return this.#lines.get(id)?.waiters.size ?? 0;
  }

  /** Whether somebody waits to hold the lock alone. */
  hasWriter(id: bigint): boolean {
    return (this.#lines.get(id)?.writers ?? 0) > 0;
  }
}
