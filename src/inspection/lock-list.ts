import type { PoolLike } from "../contract/clients.ts";
import { milliseconds } from "../contract/duration.ts";
import { databaseFailure, StandbyError } from "../contract/errors.ts";
import { jsonSafe } from "../contract/json-safe.ts";
import { kindOfLockId } from "../contract/lock-id-kind.ts";
import type { AbortSignalLike, Duration, LockMode } from "../contract/locker.ts";
import { isSharedName, named } from "../postgres/application-name.ts";
import {
  clientBeside,
  destroySocket,
  type OwnClient,
  type Pool,
  type Query,
  query,
} from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import { ping } from "../postgres/sql.ts";
import { monotonic, unrefed, within } from "../runtime/clock.ts";
import { abandonOnAbort, stopSignalOf } from "../runtime/stop-signal.ts";
import { assertAsked } from "./asked-options.ts";
import { locksTold } from "./key-questions.ts";
import { descriptionIn, type LockDescription } from "./lock-description.ts";
import { mayLoseSession } from "./pooler-look.ts";
import { endSessions, type SeenLock, type SeenTable, seenLocks, seenTable } from "./sql-inspection.ts";

/** A lock that a session or a prepared transaction holds, or that a session waits for, as PostgreSQL shows it. */
export interface LockInfo {
  readonly id: bigint;
  /**
   * The key, if it is known: from the name of a dedicated session of this library, from another row with the same id, or because its
   * holder tells it (see `keysWithin`). Its `lockId` or `sha256LockId` is the id of this lock. Otherwise `undefined`.
   */
  readonly key: string | undefined;
  /**
   * The key that the session tells, if `key` is unknown. The id doesn't prove it, because it is that of a semaphore's permit, or made by
   * a `lockId` of the locker's own. Any role could claim such a key.
   */
  readonly claimedKey: string | undefined;
  /** The beginning of the key, if the key is too long to be shown whole. */
  readonly keyStart: string | undefined;
  /** The namespace, if the session is of this library or another row has the key. Otherwise `undefined`. */
  readonly namespace: number | undefined;
  readonly mode: LockMode;
  /** `"waiting"`: the session waits inside the server. A locker lets only the first of its callers wait there. */
  readonly state: "held" | "waiting";
  /** Since when the session has waited inside the server. (PostgreSQL doesn't record when a lock was granted.) */
  readonly waitingSince: Date | undefined;
  /** The process id of the session's backend. `undefined` if a prepared transaction has the lock. */
  readonly pid: number | undefined;
  /**
   * The name (gid) of the prepared transaction that has the lock. It has no session: `COMMIT PREPARED` or `ROLLBACK PREPARED`
   * frees the lock. `undefined` if a session has the lock.
   */
  readonly preparedTransaction: string | undefined;
  readonly applicationName: string | undefined;
  readonly user: string | undefined;
  /** The address of the session's client; `"local"` over a Unix socket. */
  readonly host: string | undefined;
  /** The session's state as in `pg_stat_activity`: `"idle"` between two statements, `"idle in transaction"`, `"active"`. */
  readonly sessionState: string | undefined;
  /** When the session was opened. None of its locks is older. */
  readonly sessionSince: Date | undefined;
  /** When the session's last statement, such as a refresh, began or ended. For a prepared transaction, when it was prepared. */
  readonly activeAt: Date | undefined;
  /** The description that `pg-locker run --name … --detail …` gave the lock. */
  readonly description: LockDescription | undefined;
  /** Whether PostgreSQL hides the five fields before this one from the role. A member of `pg_read_all_stats` sees them. */
  readonly isHidden: boolean;
}

export interface ListLocksOptions {
  /**
   * Lists only the lock with this id.
   *
   * @default all locks
   * @example
   * await listLocks(pool, { id: lockId(7, "invoice:42") });
   */
  readonly id?: bigint;
  /**
   * Asks the lockers that hold locks on shared sessions for the keys, which PostgreSQL doesn't know, and waits this long for the answers
   * (a number is milliseconds). A key stays unknown if its locker doesn't answer in time, has held the lock for less than a second, or
   * has `tellKeys: false`. Behind a pooler that shares sessions, no locker is asked.
   *
   * @default no locker is asked
   * @example
   * await listLocks(pool, { keysWithin: "500ms" });
   */
  readonly keysWithin?: Duration;
  /**
   * Ends the call and its connection when it aborts: the call then rejects with the signal's own `reason`.
   *
   * @default none
   * @example
   * await listLocks(pool, { signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}

/**
 * Lists the advisory locks in the pool's database: who holds them and who waits for them. It lists every lock on a single bigint, whoever
 * took it, including those of the Go package, of `pg_advisory_lock` called by hand and of prepared transactions. Holders come before
 * waiters.
 *
 * Uses its own connection beside the pool, and settles within 10 s; `keysWithin` adds its own time and at most 5 s. Behind a pooler, it
 * takes a second connection, to find out whether the pooler shares sessions. If that gets no answer within 5 s, no locker is asked.
 *
 * @throws {DatabaseError}
 * @throws {InvalidConfigError} the pool is none, or an option is unknown or of the wrong type
 * @throws the signal's `reason` if it aborts
 */
export async function listLocks(pool: PoolLike, options: ListLocksOptions = {}): Promise<LockInfo[]> {
  assertAsked(pool, "list", options);
  const { id, signal } = options;
  const patience = milliseconds(options.keysWithin) ?? 0;
  const ids = id === undefined ? null : [id.toString()];
  const { seen, told } = await ask(pool as Pool, { doing: "Looking at locks", signal }, async (client) => {
    const seen = await answerOf<SeenLock[]>(client, query(seenLocks, [ids]));
    const pids = patience === 0 ? new Set<number>() : pidsOfShared(seen);
    const end = monotonic() + patience;
    const left = (): number => Math.max(end - monotonic(), 1);
    const deadline = (): number => Math.min(left(), statementDeadline);
    const backend = async () => (await answerOf<[boolean, number]>(client, query(ping, []), deadline()))[1];
    const looks = { pool: pool as Pool, client, backend };
    // The session would go on listening, for whoever gets it next.
    if (pids.size === 0 || (await mayLoseSession(looks, deadline))) return { seen, told: [] };
    return { seen, told: (await locksTold(client, { pids, milliseconds: left() })).locks };
  });
  const locks = seen.map(infoOf);
  const known = new Map<bigint, Pick<LockInfo, "key" | "namespace">>();
  const claims = new Map<string, Pick<LockInfo, "claimedKey" | "namespace">>();
  for (const lock of told) {
    if (kindOfLockId(lock) !== undefined) known.set(lock.id, lock);
    else claims.set(`${lock.pid} ${lock.id}`, { claimedKey: lock.key, namespace: lock.namespace });
  }
  for (const lock of locks) if (lock.key !== undefined) known.set(lock.id, lock);
  return locks
    .map((lock) => {
      const proven = known.get(lock.id);
      if (proven === undefined) return { ...lock, ...claims.get(`${lock.pid} ${lock.id}`) };
      return { ...lock, key: proven.key, namespace: proven.namespace, claimedKey: undefined };
    })
    .sort(byIdThenState)
    .map(jsonSafe);
}

/** The pids of the sessions that carry many locks, whose keys are not in their names. */
export function pidsOfShared(seen: readonly SeenLock[]): Set<number> {
  return new Set(
    seen.flatMap(({ pid, name, granted }) => (granted && isSharedName(name ?? "") ? (pid ?? []) : [])),
  );
}

/**
 * Lists the locks with one id, as {@link listLocks} does. Only on a primary.
 *
 * @throws {DatabaseError} @throws {StandbyError} @throws the reason of the signal
 */
export async function locksOf(
  pool: Pool,
  id: bigint,
  signal: AbortSignalLike | undefined,
): Promise<LockInfo[]> {
  const doing = "Looking at a lock";
  const asked = query(seenTable, [[id.toString()]]);
  const { standby, locks } = await ask(pool, { doing, signal }, (client) =>
    answerOf<SeenTable>(client, asked),
  );
  if (standby) throw new StandbyError();
  return locks.map(infoOf);
}

function byIdThenState(one: LockInfo, other: LockInfo): number {
  if (one.id !== other.id) return one.id < other.id ? -1 : 1;
  if (one.state === other.state) return 0;
  return one.state === "held" ? -1 : 1;
}

/**
 * Ends those of the sessions in `pids` that hold the lock at this moment. A session ends with all its locks. Their holders learn of it by
 * `lock.signal`.
 *
 * @returns the pids of the sessions that were ended; the others no longer held the lock
 * @throws {DatabaseError} `sqlState` is `"42501"` if the role may not end a session: then none was ended, or not all
 * @throws {InvalidConfigError} the pool is none, or `id` or `pids` is of the wrong type
 */
export async function endHolders(
  pool: PoolLike,
  lock: { id: bigint; pids: readonly number[] },
): Promise<number[]> {
  assertAsked(pool, "holders", lock);
  const asked = query(endSessions, [lock.id.toString(), lock.pids]);
  return await ask(pool as Pool, { doing: "Ending a session" }, (client) =>
    answerOf<number[]>(client, asked),
  );
}

function infoOf(seen: SeenLock): LockInfo {
  const name = seen.name ?? undefined;
  const told = named(name ?? "");
  const id = BigInt(seen.id);
  const { namespace, key } = told ?? {};
  const isProven =
    namespace !== undefined && key !== undefined && kindOfLockId({ namespace, key, id }) !== undefined;
  // Any application may choose such a name.
  const claimed = isProven ? undefined : key;
  return {
    id,
    key: isProven ? key : undefined,
    claimedKey: told?.mayBeCut ? undefined : claimed,
    keyStart: told?.mayBeCut ? claimed : undefined,
    namespace,
    mode: seen.mode,
    state: seen.granted ? "held" : "waiting",
    waitingSince: dateOf(seen.waitStart),
    pid: seen.pid ?? undefined,
    preparedTransaction: seen.prepared ?? undefined,
    applicationName: name,
    user: seen.user ?? undefined,
    host: seen.host ?? undefined,
    sessionState: seen.state ?? undefined,
    sessionSince: dateOf(seen.sessionSince),
    activeAt: dateOf(seen.activeAt),
    description: descriptionIn(seen.description),
    isHidden: seen.hidden,
  };
}

function dateOf(text: string | null): Date | undefined {
  return text === null ? undefined : new Date(text);
}

async function ask<T>(
  pool: Pool,
  { doing, signal }: { doing: string; signal?: AbortSignalLike | undefined },
  look: (client: OwnClient) => Promise<T>,
): Promise<T> {
  const stop = stopSignalOf(signal);
  let client: OwnClient | undefined;
  try {
    const own = await clientBeside(pool);
    stop?.throwIfAborted();
    client = own;
    const answered = within(statementDeadline, own.connect())
      .then(() => look(own))
      .finally(() => takeLeave(own));
    return await abandonOnAbort(answered, [stop]);
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    stop?.throwIfAborted();
    throw databaseFailure(doing, cause);
  }
}

async function answerOf<T>(client: OwnClient, asked: Query, deadline = statementDeadline): Promise<T> {
  const { rows } = await within(deadline, client.query(asked));
  return JSON.parse(String(rows[0]?.[0])) as T;
}

/** Ends a client without making the caller, or the exit of the process, wait for a server that has fallen silent. */
function takeLeave(client: OwnClient): void {
  const late = unrefed(setTimeout(() => destroySocket(client), statementDeadline));
  client.unref?.();
  client
    .end()
    .catch(() => destroySocket(client))
    .finally(() => clearTimeout(late));
}
