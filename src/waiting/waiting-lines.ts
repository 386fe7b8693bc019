import type { LockMode } from "../contract/locker.ts";
import { Queue, type Queued } from "../runtime/queue.ts";

/** A caller that stands in a line. */
export interface InLine {
  readonly id: bigint;
  readonly mode: LockMode;
  /**
   * It may go to the database: everybody before it has left, or it is a reader behind readers that have just been let in. May be called
   * more than once.
   */
  onTurn(): void;
}

/** A caller's place among those of its locker that wait for the same lock. */
export type Place = Queued<InLine>;

interface Line {
  readonly waiters: Queue<InLine>;
  writers: number;
}

/** The waiting callers of one locker: a line for each lock, in order of arrival. */
export class WaitingLines {
  readonly #lines = new Map<bigint, Line>();

  /** Enters the line. Does not call {@link InLine.onTurn}: whether it is first, {@link isFirst} says. */
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
   * Leaves the line. A second call does nothing.
   *
   * @param granted whether it has the lock; then the readers right behind a reader may all try at once
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

  /** How many callers wait for a lock. */
  lengthOf(id: bigint): number {
    return this.#lines.get(id)?.waiters.size ?? 0;
  }

  /** Whether somebody waits to hold the lock alone. */
  hasWriter(id: bigint): boolean {
    return (this.#lines.get(id)?.writers ?? 0) > 0;
  }
}
