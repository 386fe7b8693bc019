import type { Leader } from "../contract/election.ts";
import type { Lock } from "../contract/lock.ts";
import type { Logger } from "../contract/locker.ts";
import { longestTimer } from "../runtime/clock.ts";
import { callHook } from "../runtime/user-hook.ts";

/** What it needs of the locker. */
interface LeaderWatchParts {
  readonly log: Logger;
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
}

interface LeaderWatchOptions {
  readonly id: bigint;
  /** Milliseconds between two looks. */
  readonly every: number;
  onNewLeader(leader: Leader): unknown;
}

/**
 * Looks who leads, over and over, and tells of each new leader. One is told from another by its session. A look that fails tells
 * nothing, and neither does one that finds nobody.
 */
export class LeaderWatch {
  readonly #parts: LeaderWatchParts;
  readonly #options: LeaderWatchOptions;
  /** The lock of this process, as long as it leads. */
  #own: Lock | undefined;
  #last: Leader | undefined;
  /** Somebody else who was seen once. */
  #unconfirmed: Leader | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isLooking = false;
  /** Something has changed since the look that is under way was sent. */
  #again = false;
  #isStopped = false;

  constructor(parts: LeaderWatchParts, options: LeaderWatchOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#look();
  }

  /** This process leads by that lock, or no longer. */
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
        // The server may have shown the one before or after.
        const changed = before !== this.#own || (before !== undefined && !before.held);
        if (seen !== undefined && !changed) this.#saw({ isSelf: before !== undefined, ...seen });
      })
      .catch((err: unknown) => this.#parts.log.debug({ err }, "looking for the leader failed"))
      .finally(() => {
        this.#isLooking = false;
        if (this.#isStopped) return;
        if (this.#again) this.#look();
        else
          this.#timer = setTimeout(() => this.#look(), Math.min(this.#options.every, longestTimer)).unref();
      });
  }

  #saw(leader: Leader): void {
    if (this.#isStopped || isSame(leader, this.#last)) return;
    // The server may show a grant to this very process that is still on its way to it. By the next look it has arrived.
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
