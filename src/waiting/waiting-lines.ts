import type { LockMode } from "../contract/locker.ts";
import { Queue, type Queued } from "../runtime/queue.ts";

/** Who waits for a lock. */
export interface InLine {
  readonly id: bigint;
  readonly mode: LockMode;
  /**
   * It may go to the database: whoever stood before it has left, or they are readers, as it is, who have just been let in. Called again
   * as others leave.
   */
  onTurn(): void;
}

/** Where a caller stands among those of its process that wait for the same lock. */
export type Place = Queued<InLine>;

interface Line {
  readonly waiters: Queue<InLine>;
  writers: number;
}

/** The callers of one locker that wait, in a line for each lock, in order of arrival. */
export class WaitingLines {
  readonly #lines = new Map<bigint, Line>();

  /** Whether it is the waiter's turn is the waiter's to ask: {@link isFirst}. */
  join(waiter: InLine): Place {
    const { id, mode } = waiter;
    const line = this.#lines.get(id) ?? { waiters: new Queue<InLine>(), writers: 0 };
    this.#lines.set(id, line);
    if (mode === "exclusive") line.writers += 1;
    return line.waiters.push(waiter);
  }

  /** Whether nobody stands before it. */
  isFirst({ value }: Place): boolean {
    return this.#lines.get(value.id)?.waiters.first === value;
  }

  /**
   * Leaves the line. `granted`: with the lock; then the readers that stand behind a reader may all try at once. A second call does
   * nothing.
   */
  leave(place: Place, granted: boolean): void {
    const { id, mode } = place.value;
    const line = this.#lines.get(id);
    if (line === undefined || !place.isQueued) return;
    line.waiters.remove(place);
    if (mode === "exclusive") line.writers -= 1;
    if (line.waiters.size === 0) this.#lines.delete(id);
    line.waiters.first?.onTurn();
    if (!granted || mode === "exclusive") return;
    for (const next of line.waiters) {
      if (next.mode === "exclusive") break;
      next.onTurn();
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
