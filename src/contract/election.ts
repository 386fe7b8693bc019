import { assertAcquireOptions } from "./acquire-options.ts";
import { milliseconds } from "./duration.ts";
import { InvalidConfigError } from "./errors.ts";
import type { Lock } from "./lock.ts";
import type { LockKey } from "./lock-key.ts";
import type { AbortSignalLike, Duration } from "./locker.ts";

/** One stretch of leading, from the election to the end of `onElected`. */
export interface LeaderTerm {
  /**
   * Aborts when this process must stop leading: because the lock was lost or expired (the reason is that of `lock.signal`), because the
   * signal of `elect` aborted (its reason), or because the locker closes (a `LockerClosedError`). Pass it to all work done as leader.
   */
  readonly signal: AbortSignal;
}

/** The current leader, as its session appears in PostgreSQL. With a `MemoryLocker`, every field except `isSelf` is `undefined`. */
export interface Leader {
  /** Whether the leader is the `elect` call whose `onNewLeader` this is. */
  readonly isSelf: boolean;
  /** The address of the leader's host; `"local"` over a Unix socket. `undefined` if PostgreSQL hides it from this role. */
  readonly host: string | undefined;
  /** The process id of the leader's backend, as in `pg_stat_activity`. */
  readonly pid: number | undefined;
  /** When the leader's session was opened. `undefined` if PostgreSQL hides it from this role. */
  readonly sessionSince: Date | undefined;
}

export interface ElectOptions {
  /**
   * The leader's work: runs once this process has been elected, under a lock that refreshes itself. When it returns, or its promise
   * resolves, the process resigns; when it throws, the process resigns and `elect` rejects. It should end soon after `term.signal`
   * aborts: until it does, this process neither resigns nor stands again.
   *
   * @example
   * await locker.elect("scheduler", { onElected: async (lock, { signal }) => await work(signal) });
   */
  readonly onElected: (lock: Lock, term: LeaderTerm) => unknown;
  /**
   * Called with each new leader: at once if it is this process, or after two checks in a row have seen another one. A check is one
   * statement each `retryPeriod`; without this option there are none. Leaders are told apart by their sessions. If `onNewLeader`
   * throws, nothing changes.
   *
   * @default none: the leader is not checked
   * @example
   * await locker.elect("scheduler", { onElected, onNewLeader: ({ isSelf, host }) => console.log(isSelf, host) });
   */
  readonly onNewLeader?: (leader: Leader) => unknown;
  /**
   * Ends the election when it aborts: a candidate stops waiting, and a leader's `term.signal` aborts. The promise then resolves.
   *
   * @default none: the election goes on until the locker closes
   * @example
   * await locker.elect("scheduler", { onElected, signal: stop.signal });
   */
  readonly signal?: AbortSignalLike;
  /**
   * How long a leader leads without an answer from the server, and how long the server waits for the leader. Other libraries call it the
   * lease duration. The lock is refreshed after a third of it.
   *
   * When it passes, the server frees the lock, whatever has become of the leader and whatever the locker's `ttlEnforcement` is. So it is
   * from 1 ms to 2147483647 ms, and so are the locker's default and what `lock.refresh` takes.
   *
   * @default as `acquire`: `"30s"`, or the locker's `recoveryGrace` if that is less
   * @example
   * await locker.elect("scheduler", { onElected, ttl: "15s" });
   */
  readonly ttl?: Duration;
  /**
   * The pause between resigning and standing again, plus up to a fifth at random, so that another candidate can be elected. It is also
   * the time between two checks for `onNewLeader`. Candidates wait inside the server, without pauses.
   *
   * @default "2s"
   * @example
   * await locker.elect("scheduler", { onElected, retryPeriod: "5s" });
   */
  readonly retryPeriod?: Duration;
  /**
   * Gives each leader a fencing token: see {@link Lock.fencingToken}.
   *
   * @default false
   * @example
   * await locker.elect("scheduler", { fencing: true, onElected: (lock) => work(lock.fencingToken) });
   */
  readonly fencing?: boolean;
}

/** The part of a locker that does leader election. */
export interface LeaderElector {
  /**
   * Stands for election, leads while `onElected` runs, resigns, and stands again, until it is told to end. Of all candidates for `key`,
   * in any process, one at a time leads: the one that holds the lock of the key, which is refreshed while it leads.
   *
   * The process resigns when `onElected` returns or throws. After it has returned, or has ended because the lock was lost, the process
   * pauses for `retryPeriod` and stands again. Faults that pass by themselves (a restart, a failover) are waited out.
   *
   * Resolves once `options.signal` or `close()` has told it to end and `onElected` has ended. After a loss, or once told to end, an
   * error of `onElected` is ignored, because throwing is how work stops.
   *
   * A leader that is stopped, blocked or cut off loses its lock in the server when its TTL has passed, and another one leads. The
   * locker's `ttlEnforcement` makes no difference to that.
   *
   * @example
   * const stop = new AbortController();
   * process.once("SIGTERM", () => stop.abort());
   * await locker.elect("scheduler", {
   *   signal: stop.signal,
   *   onElected: async (lock, { signal }) => {
   *     while (!signal.aborted) await work(signal);
   *   },
   * });
   *
   * @throws what `onElected` throws while leading, once the lock has been released
   * @throws what `acquire` throws if waiting can't help: a wrong password, a bad key, a pooler
   * @throws {InvalidTtlError} the server can't enforce the TTL
   * @throws {InvalidConfigError} an option is unknown or of the wrong type
   * @throws {LockerClosedError} called after `close()`
   */
  elect(key: LockKey, options: ElectOptions): Promise<void>;
}

const known = ["onElected", "onNewLeader", "signal", "ttl", "retryPeriod", "fencing"];
/** Milliseconds. */
const defaultRetryPeriod = 2_000;

/** Checked options of `elect`, with `retryPeriod` in milliseconds. */
export interface CheckedElectOptions extends ElectOptions {
  readonly retryPeriod: number;
}

/**
 * Checks the options of `elect`, except `ttl`, which depends on the locker. Returns a copy.
 *
 * @throws {InvalidConfigError} names the option
 */
export function checkElectOptions(options: unknown): CheckedElectOptions {
  assertAcquireOptions(options, known);
  const { onElected, onNewLeader, retryPeriod = defaultRetryPeriod } = options as Partial<ElectOptions>;
  assertCallback("onElected", onElected);
  if (onNewLeader !== undefined) assertCallback("onNewLeader", onNewLeader);
  const pause = milliseconds(retryPeriod);
  if (pause === undefined || !(pause > 0) || pause === Number.POSITIVE_INFINITY) {
    const wants = 'a positive duration such as 2000 or "2s"';
    throw new InvalidConfigError({ field: "retryPeriod", got: retryPeriod, wants });
  }
  return { ...(options as ElectOptions), retryPeriod: pause };
}

function assertCallback(field: string, got: unknown): void {
  if (typeof got !== "function") throw new InvalidConfigError({ field, got, wants: "a function" });
}
