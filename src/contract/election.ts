import { assertAcquireOptions } from "./acquire-options.ts";
import { milliseconds } from "./duration.ts";
import { InvalidConfigError } from "./errors.ts";
import type { Lock } from "./lock.ts";
import type { AbortSignalLike, Duration } from "./locker.ts";

/** One stretch of leading, from the election to the end of `onElected`. */
export interface LeaderTerm {
  /**
   * Aborts when leading has to end: the lock was lost or has expired (its reason is that of `lock.signal`), the signal of `elect`
   * aborted (its reason), or the locker closes (a `LockerClosedError`). Pass it to whatever is done as leader.
   */
  readonly signal: AbortSignal;
}

/** Who leads, as its session shows in PostgreSQL. All but `isSelf` is `undefined` with a `MemoryLocker`. */
export interface Leader {
  /** Whether it is this very `elect`. */
  readonly isSelf: boolean;
  /** The address of its host; `"local"` over a Unix socket. `undefined` if PostgreSQL hides it from this role. */
  readonly host: string | undefined;
  /** The backend of its session, as `pg_stat_activity` has it. */
  readonly pid: number | undefined;
  /** When its session was opened. `undefined` if PostgreSQL hides it from this role. */
  readonly sessionSince: Date | undefined;
}

export interface ElectOptions {
  /**
   * Leads: runs when this process has been elected, under a lock that refreshes itself. Returning, or the end of the promise, resigns;
   * throwing resigns, and ends the election. Once `term.signal` has aborted it should come to its end soon: until it has, this process
   * neither resigns nor stands again.
   */
  readonly onElected: (lock: Lock, term: LeaderTerm) => unknown;
  /**
   * Called with each new leader: with this process as soon as it leads, with another when two looks in a row have shown it. There is a
   * look once in a `retryPeriod`, of one statement; without this option nobody looks. One leader is told from another by its session.
   * Whatever it throws changes nothing.
   *
   * @default nobody looks
   */
  readonly onNewLeader?: (leader: Leader) => unknown;
  /**
   * Its abort ends the election: a candidate stops waiting, a leader is told by `term.signal`. The promise then resolves.
   *
   * @default it goes on until the locker closes
   */
  readonly signal?: AbortSignalLike;
  /**
   * How long a leader leads without a sign of the server, and with `ttlEnforcement: "server"` how long the server waits for one of the
   * leader: the lease duration of others. It is refreshed at a third of that.
   *
   * @default as `acquire`: `"30s"`, or the locker's `recoveryGrace` if that is less
   */
  readonly ttl?: Duration;
  /**
   * The pause between resigning and standing again, in which others may be elected; up to a fifth longer, by chance. It is also the time
   * between two looks for `onNewLeader`. Whoever waits waits inside the server, without such pauses.
   *
   * @default "2s"
   */
  readonly retryPeriod?: Duration;
  /**
   * Gives each leader a fencing token: see {@link Lock.fencingToken}.
   *
   * @default false
   */
  readonly fencing?: boolean;
}

/** What a locker has for leader election. */
export interface LeaderElector {
  /**
   * Stands for election, leads as long as `onElected` runs, resigns, and stands again, until it is told to end. Of all who stand for
   * `key`, in whatever process, one at a time leads: it holds the lock of the key, which is refreshed meanwhile.
   *
   * Returning from `onElected` resigns, and so does its throwing. After it has returned, or come to its end because the lock was lost,
   * this process pauses for `retryPeriod` and stands again. What waiting can mend (a restart, a failover) it waits out.
   *
   * Resolves when it was told to end, by `options.signal` or by `close()`, and `onElected` has come to its end. After a loss, or
   * when told to end, what `onElected` throws doesn't count, as that is how work stops.
   *
   * Use `ttlEnforcement: "server"`: otherwise a leader that is stopped or cut off is replaced only when its session ends.
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
   * @throws what `onElected` throws of itself, once the lock has been given back
   * @throws what `acquire` throws and no waiting mends: a wrong password, a bad key or TTL, a pooler
   * @throws {InvalidConfigError} an option is unknown or of the wrong type
   * @throws {LockerClosedError} called after `close()`
   */
  elect(key: string, options: ElectOptions): Promise<void>;
}

const known = ["onElected", "onNewLeader", "signal", "ttl", "retryPeriod", "fencing"];
/** Milliseconds. */
const defaultRetryPeriod = 2_000;

/** With `retryPeriod` in milliseconds. */
export interface CheckedElectOptions extends ElectOptions {
  readonly retryPeriod: number;
}

/**
 * A copy of the options. `ttl` is checked where it is used.
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
