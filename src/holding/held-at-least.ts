import type { Lock } from "../contract/lock.ts";
import type { LockMode, Logger } from "../contract/locker.ts";
import { statementDeadline } from "../postgres/session.ts";
import { type Instant, monotonic } from "../runtime/clock.ts";
import type { GoneListener, Grant, ReleaseListener } from "../sessions/grant.ts";
import { ttlInServer } from "../sessions/least-ttl.ts";
import type { Hold, Wanted } from "../waiting/attempt.ts";
import type { RegisteredLock } from "./lock-registry.ts";

/** How often a lock that is kept is proved, in milliseconds, so that nothing between here and the server cuts a silent connection. */
const heartbeat = 30_000;

/** The parts of a locker that keep a lock which its holder has released. */
export interface KeepingLocker {
  readonly telemetry: { readonly log: Logger };
  register(lock: RegisteredLock): void;
  freed(lock: RegisteredLock): void;
}

/**
 * Takes a lock that stays in the server for at least `holdAtLeast` milliseconds from its grant, however early its holder releases it.
 *
 * @param take takes the lock with the given `hold`
 */
export async function heldAtLeast<H>(
  wanted: LockHeldAtLeast,
  {
    hold,
    locker,
    take,
  }: {
    hold: Hold<Grant, H>;
    locker: KeepingLocker;
    take(wanted: LockHeldAtLeast, hold: Hold<Grant, H>): Promise<Lock>;
  },
): Promise<Lock> {
  let granted: HeldAtLeast | undefined;
  const lock = await take(wanted, (grant, facts) => {
    granted = new HeldAtLeast(grant, facts, locker);
    return hold(granted, facts);
  });
  granted?.keepFor(wanted.holdAtLeast);
  return lock;
}

type LockHeldAtLeast = Wanted & { readonly holdAtLeast: number };

//   held ──free(), early──▶ kept: released for its holder, held for everybody else ──the time has passed──▶ over
//    │                       └── its session ends, close() ──▶ over
//    └── free(), later; release(): its TTL has passed, close(), nobody wants it ──▶ as any grant
type State =
  | { readonly is: "held" }
  /** `timer`: until the end, or the next proof. */
  | { readonly is: "kept"; readonly timer: NodeJS.Timeout | undefined }
  | { readonly is: "over"; readonly ended: Promise<void> };

/**
 * The grant of a lock that is kept for a minimum time. Nobody relies on a lock that is kept, so its TTL means nothing any more: only the
 * time and the end of its session end it. A server that enforces TTLs waits until after that time, as it has been told since the grant.
 *
 * The time is measured by the monotonic clock alone, which stands still while the machine is suspended: the lock is then held too long
 * rather than too short.
 */
class HeldAtLeast implements Grant, GoneListener, RegisteredLock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly grantedAt: Instant;
  readonly expired = false;
  readonly lapses: boolean;
  readonly keepProven?: (ttl: number | undefined) => void;
  readonly #start = monotonic();
  readonly #grant: Grant;
  readonly #locker: KeepingLocker;
  /** By {@link monotonic}. */
  #until = this.#start;
  /** What a server that enforces TTLs is told at least, until the time has passed. */
  readonly #ttl: number;
  #listener: GoneListener | undefined;
  #state: State = { is: "held" };

  constructor(grant: Grant, wanted: Wanted, locker: KeepingLocker) {
    this.key = wanted.key;
    this.id = wanted.id;
    this.mode = wanted.mode;
    this.grantedAt = grant.grantedAt;
    this.lapses = grant.lapses;
    this.#grant = grant;
    this.#locker = locker;
    this.#ttl = ttlInServer(wanted);
    if (grant.keepProven !== undefined) this.keepProven = (within) => grant.keepProven?.(within);
  }

  /** Sets the minimum time. Called once the caller is certain to get the lock: one that is given back before that is not kept. */
  keepFor(least: number): void {
    this.#until = this.#start + least;
  }

  get keptUntil(): Date {
    return new Date(Date.now() + this.#left);
  }

  get keptAt(): Instant {
    return this.#grant.keptAt ?? this.#grant.grantedAt;
  }

  get fencingToken(): bigint | undefined {
    return this.#grant.fencingToken;
  }

  get pid(): number | undefined {
    return this.#grant.pid;
  }

  get goneBecause(): Error | undefined {
    return this.#grant.goneBecause;
  }

  onGone(listener: GoneListener): void {
    this.#listener = listener;
    this.#grant.onGone(this);
  }

  gone(cause: Error): void {
    if (this.#state.is === "held") this.#listener?.gone(cause);
    else void this.close();
  }

  overdue(): void {
    if (this.#state.is === "held") this.#listener?.overdue();
  }

  refresh(ttl: number, deadline: number): Promise<Instant> {
    return this.#grant.refresh(this.#left > 0 ? Math.max(ttl, this.#ttl) : ttl, deadline);
  }

  release(): Promise<void> {
    return this.#grant.release();
  }

  /** Called when the holder releases the lock. If that is early, the lock is kept, and the holder is told at once. */
  free(listener: ReleaseListener): void {
    if (this.#left > 0 && this.goneBecause === undefined) {
      this.#state = { is: "kept", timer: undefined };
      this.#grant.keep?.(() => this.keptUntil);
      this.#locker.register(this);
      listener.freed();
      this.#keep(false);
    } else {
      this.#grant.release().then(
        () => listener.freed(),
        (error: unknown) => listener.notFreed(error),
      );
    }
  }

  /** Frees the lock: the time has passed, its session has ended, or the locker closes. Never rejects. */
  close(): Promise<void> {
    if (this.#state.is === "over") return this.#state.ended;
    if (this.#state.is === "kept") clearTimeout(this.#state.timer);
    const ended = this.#end();
    this.#state = { is: "over", ended };
    return ended;
  }

  get #left(): number {
    return this.#until - monotonic();
  }

  #keep(proves: boolean): void {
    // Whoever was told of the release may have closed the locker.
    if (this.#state.is !== "kept") return;
    const left = this.#left;
    if (left <= 0) {
      void this.close();
      return;
    }
    const rest = Math.min(Math.max(Math.ceil(left), 1), heartbeat);
    this.#state = { is: "kept", timer: setTimeout(() => this.#keep(true), rest) };
    if (!proves) return;
    // A failure has ended the lock.
    this.#grant.refresh(this.#ttl, statementDeadline).catch(() => this.close());
  }

  async #end(): Promise<void> {
    const { key } = this;
    await this.#grant.release().catch((err: unknown) => {
      this.#locker.telemetry.log.debug(
        { key, err },
        "a lock that was kept after its release has ended early",
      );
    });
    this.#locker.freed(this);
  }
}
