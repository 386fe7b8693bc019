import type { Leader } from "../contract/election.ts";
import type { Lock } from "../contract/lock.ts";
import type { Logger } from "../contract/locker.ts";
import { longestTimer, unrefed } from "../runtime/clock.ts";
import { callHook } from "../runtime/user-hook.ts";

/** The parts of a locker that a leader watch uses. */
interface LeaderWatchParts {
  readonly log: Logger;
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
}

interface LeaderWatchOptions {
  readonly id: bigint;
  /** Milliseconds between two checks. */
  readonly every: number;
  onNewLeader(leader: Leader): unknown;
}

/**
 * Checks at intervals who leads, and reports each new leader. Leaders are told apart by their sessions. A check that fails, or that finds
 * no leader, reports nothing.
 */
export class LeaderWatch {
  readonly #parts: LeaderWatchParts;
  readonly #options: LeaderWatchOptions;
  /** The lock of this process while it leads. */
  #own: Lock | undefined;
  #last: Leader | undefined;
  /** Another leader that has been seen only once so far. */
  #unconfirmed: Leader | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isLooking = false;
  /** Whether something has changed since the check in flight was sent, so that another one must follow. */
  #again = false;
  #isStopped = false;

  constructor(parts: LeaderWatchParts, options: LeaderWatchOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#look();
  }

  /** Called when this process begins to lead, with its lock, and when it no longer leads, with `undefined`. */
  leads(lock: Lock | undefined): void {
    this.#own = lock;
    if (lock !== undefined) this.#look();
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  #look(): void {
    clearTimeout(this.#timer);
    this.#again = this.#isLooking;
    if (this.#isLooking) return;
    this.#isLooking = true;
    const before = this.#own;
    this.#parts
      .holderOf(this.#options.id)
      .then((seen) => {
        // If the own lock changed during the check, the server may have shown the leader before or after the change.
        const changed = before !== this.#own || (before !== undefined && !before.held);
        if (seen !== undefined && !changed) this.#saw({ isSelf: before !== undefined, ...seen });
      })
      .catch((err: unknown) => this.#parts.log.debug({ err }, "looking for the leader failed"))
      .finally(() => {
        this.#isLooking = false;
        if (this.#isStopped) return;
        if (this.#again) this.#look();
        else
          this.#timer = unrefed(setTimeout(() => this.#look(), Math.min(this.#options.every, longestTimer)));
      });
  }

  #saw(leader: Leader): void {
    if (this.#isStopped || isSame(leader, this.#last)) return;
    // The other leader may be this process, whose grant has not arrived yet. It will have arrived by the next check.
    if (!leader.isSelf && !isSame(leader, this.#unconfirmed)) {
      this.#unconfirmed = leader;
      return;
    }
    this.#unconfirmed = undefined;
    this.#last = leader;
    callHook("listener onNewLeader", () => this.#options.onNewLeader(leader));
  }
}

function isSame(one: Leader, other: Leader | undefined): boolean {
  return (
    one.isSelf === other?.isSelf &&
    one.pid === other.pid &&
    one.sessionSince?.getTime() === other.sessionSince?.getTime()
  );
}
