import { applicationName, waitingName } from "../postgres/application-name.ts";
import { canConnectBeside, type Pool } from "../postgres/driver.ts";
import { boundedWait } from "../postgres/session.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { WaitingSession, type WaitingSessionParts } from "./waiting-session.ts";

export interface WaitingSessionsOptions {
  readonly pool: Pool;
  readonly namespace: number;
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  /** The most sessions at once. */
  readonly maxWaitingSessions: number;
  readonly recovery: RecoveryGrace | undefined;
  readonly events: WaitingSessionParts["events"];
}

/** The sessions of a locker on which callers wait inside the server, or hold a lock that they waited for. */
export class WaitingSessions {
  readonly #parts: Omit<WaitingSessionParts, "enforced">;
  readonly #most: number;
  /** The sessions that nobody uses; the most recently used one is last. */
  readonly #idle: WaitingSession[] = [];
  readonly #all = new Set<WaitingSession>();
  readonly #onFree: () => void;

  /** `onFree` is called whenever {@link hasPlace} may be true again. */
  constructor(options: WaitingSessionsOptions, onFree: () => void) {
    const { pool, namespace, connWaitTimeout, pooler, maxWaitingSessions, recovery, events } = options;
    this.#onFree = onFree;
    this.#most = canConnectBeside(pool) ? maxWaitingSessions : 0;
    this.#parts = {
      pool,
      idleName: waitingName(namespace),
      nameFor: (key) => applicationName(namespace, key),
      trustPooler: pooler === "session",
      recovery,
      events,
      connectWithin: boundedWait(connWaitTimeout),
      onIdle: (session) => {
        this.#idle.push(session);
        this.#onFree();
      },
      onEnd: (session) => {
        this.#all.delete(session);
        const at = this.#idle.indexOf(session);
        if (at !== -1) this.#idle.splice(at, 1);
        this.#onFree();
      },
    };
  }

  /** How many sessions there are. */
  get size(): number {
    return this.#all.size;
  }

  /** Whether one more caller can wait inside the server. */
  get hasPlace(): boolean {
    return this.#idle.length > 0 || this.#all.size < this.#most;
  }

  /**
   * Waits inside the server for at most `bound` milliseconds. The session is free again when the wait has ended without the lock or the
   * lock has been released. If there is no place, the request is refused at once. `enforced`: the server enforces the lock's TTL.
   *
   * @throws what {@link WaitingSession.waitLock} throws
   */
  async waitLock(
    request: LockRequest,
    { bound, enforced }: { bound: number; enforced: boolean },
  ): Promise<Grant | Refusal> {
    if (!this.hasPlace) return { refused: "held" };
    return await this.#sessionFor(enforced).waitLock(request, bound);
  }

  /**
   * Returns an idle session, or a new one. Locks with an enforced TTL need a session that was opened with time-outs for its link. Call it
   * only if {@link hasPlace}.
   */
  #sessionFor(enforced: boolean): WaitingSession {
    const at = this.#idle.findLastIndex((session) => session.enforced === enforced);
    const [idle] = at === -1 ? [] : this.#idle.splice(at, 1);
    if (idle !== undefined) return idle;
    // An idle one of the other kind makes room.
    if (this.#all.size >= this.#most) void this.#idle[0]?.close();
    const session = new WaitingSession({ ...this.#parts, enforced });
    this.#all.add(session);
    return session;
  }

  /** Ends all sessions, with the locks on them. Never rejects, and takes seconds at most. */
  async close(): Promise<void> {
    await Promise.all([...this.#all].map((session) => session.close()));
  }
}
