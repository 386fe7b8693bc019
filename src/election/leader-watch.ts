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

//   looking ──an answer──▶ resting ── a pause, leads() ──▶ looking
//      └── leads() ──▶ looking, and once more after the answer
//   stop(), from either ──▶ stopped
type State =
  /** `again`: something has changed since the check in flight was sent, so another one must follow. */
  | { readonly is: "looking"; readonly again: boolean }
  | { readonly is: "resting"; readonly timer: NodeJS.Timeout | undefined }
  | { readonly is: "stopped" };

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
  #state: State = { is: "resting", timer: undefined };

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
    if (this.#state.is === "resting") clearTimeout(this.#state.timer);
    this.#state = { is: "stopped" };
  }

  #look(): void {
    if (this.#state.is === "stopped") return;
    if (this.#state.is === "looking") {
      this.#state = { is: "looking", again: true };
      return;
    }
    clearTimeout(this.#state.timer);
    this.#state = { is: "looking", again: false };
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
        if (this.#state.is === "looking") this.#rest(this.#state);
      });
  }

  #rest({ again }: { readonly again: boolean }): void {
    const look = (): void => this.#look();
    const timer = again ? undefined : unrefed(setTimeout(look, Math.min(this.#options.every, longestTimer)));
    this.#state = { is: "resting", timer };
    if (again) look();
  }

  #saw(leader: Leader): void {
    if (this.#state.is === "stopped" || isSame(leader, this.#last)) return;
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
