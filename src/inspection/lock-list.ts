import { DatabaseError, StandbyError } from "../contract/errors.ts";
import { fnv } from "../contract/lock-id.ts";
import { keyBytes } from "../contract/lock-key.ts";
import type { AbortSignalLike, LockMode } from "../contract/locker.ts";
import { named } from "../postgres/application-name.ts";
import {
  clientBeside,
  destroySocket,
  type OwnClient,
  type Pool,
  type Query,
  query,
  type Statement,
} from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import { within } from "../runtime/clock.ts";
import { abandonOnAbort, stopSignalOf } from "../runtime/stop-signal.ts";
import { endSessions, type SeenLock, type SeenTable, seenLocks, seenTable } from "./sql-inspection.ts";

/** A lock that a session or a prepared transaction has, or that somebody waits for, as PostgreSQL shows it. */
export interface LockInfo {
  readonly id: bigint;
  /** Where the session tells: a dedicated session of this library, or another row with the same id. */
  readonly key: string | undefined;
  /** The beginning of a key that is too long to be told whole. */
  readonly keyStart: string | undefined;
  /** Where the session is one of this library, or the key is known by another row. */
  readonly namespace: number | undefined;
  readonly mode: LockMode;
  /** `"waiting"`: its session waits inside the server. A process of this library has the first of its callers wait there. */
  readonly state: "held" | "waiting";
  /** Since when it waits inside the server. When a lock was granted, PostgreSQL does not know. */
  readonly waitingSince: Date | undefined;
  /** The backend of the session. `undefined` if a prepared transaction has the lock. */
  readonly pid: number | undefined;
  /**
   * The name (gid) of the prepared transaction that has the lock, which has no session: `COMMIT PREPARED` or `ROLLBACK PREPARED`
   * frees it. `undefined` if a session has the lock.
   */
  readonly preparedTransaction: string | undefined;
  readonly applicationName: string | undefined;
  readonly user: string | undefined;
  /** The address of the client; `"local"` over a Unix socket. */
  readonly host: string | undefined;
  /** `"idle"` between two statements, `"idle in transaction"`, `"active"`: as `pg_stat_activity` has it. */
  readonly sessionState: string | undefined;
  /** When the session was opened: no lock of it is older. */
  readonly sessionSince: Date | undefined;
  /** When its last statement began or ended: a refresh, say. Of a prepared transaction, when it was prepared. */
  readonly activeAt: Date | undefined;
  /** PostgreSQL hides the last four from this role; a member of `pg_read_all_stats` sees them. */
  readonly isHidden: boolean;
}

export interface ListLocksOptions {
  /** Those of this lock alone. Default: all. */
  readonly id?: bigint;
  /** Its abort ends the look, and its connection. */
  readonly signal?: AbortSignal;
}

/**
 * The advisory locks of the pool's database: who has them, and who waits for them. Of those on one bigint, whoever took them:
 * locks of the Go package, of `pg_advisory_lock` by hand, and of prepared transactions are among them. Holders come before those
 * who wait.
 *
 * Uses a connection of its own beside the pool, and answers within 10 s.
 *
 * @throws {DatabaseError}
 * @throws the signal's `reason`, where that aborts
 */
export async function listLocks(pool: Pool, options: ListLocksOptions = {}): Promise<LockInfo[]> {
  const { id, signal } = options;
  const ids = id === undefined ? null : [id.toString()];
  const seen = await ask<SeenLock[]>(pool, { doing: "Looking at locks", signal }, seenLocks, [ids]);
  const locks = seen.map(infoOf);
  const known = new Map(locks.filter(({ key }) => key !== undefined).map((lock) => [lock.id, lock]));
  return locks
    .map((lock) => {
      const { key, namespace } = known.get(lock.id) ?? lock;
      return { ...lock, key, namespace };
    })
    .sort(byIdThenState);
}

/**
 * The locks with one id, as {@link listLocks} has them, on a primary.
 *
 * @throws {DatabaseError} @throws {StandbyError} @throws the reason of the signal
 */
export async function locksOf(
  pool: Pool,
  id: bigint,
  signal: AbortSignalLike | undefined,
): Promise<LockInfo[]> {
  const doing = "Looking at a lock";
  const { standby, locks } = await ask<SeenTable>(pool, { doing, signal }, seenTable, [[id.toString()]]);
  if (standby) throw new StandbyError();
  return locks.map(infoOf);
}

function byIdThenState(one: LockInfo, other: LockInfo): number {
  if (one.id !== other.id) return one.id < other.id ? -1 : 1;
  if (one.state === other.state) return 0;
  return one.state === "held" ? -1 : 1;
}

/**
 * Ends the sessions of `pids`, of those of them alone that have the lock in this very moment; with a session go all its locks.
 * Their holders hear of it, by `lock.signal`.
 *
 * @returns the pids of the sessions that were told to end; the others no longer had the lock
 * @throws {DatabaseError} `sqlState` is `"42501"` where the role may not: then none was ended, or not all
 */
export async function endHolders(
  pool: Pool,
  lock: { id: bigint; pids: readonly number[] },
): Promise<number[]> {
  return await ask(pool, { doing: "Ending a session" }, endSessions, [lock.id.toString(), lock.pids]);
}

function infoOf(seen: SeenLock): LockInfo {
  const name = seen.name ?? undefined;
  const told = named(name ?? "");
  const id = BigInt(seen.id);
  const isWhole = told?.key !== undefined && fnv(told.namespace, keyBytes(told.key)) === id;
  return {
    id,
    key: isWhole ? told.key : undefined,
    // Another application may call itself as it likes.
    keyStart: !isWhole && told?.mayBeCut ? told.key : undefined,
    namespace: told?.namespace,
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
    isHidden: seen.hidden,
  };
}

function dateOf(text: string | null): Date | undefined {
  return text === null ? undefined : new Date(text);
}

async function ask<T>(
  pool: Pool,
  { doing, signal }: { doing: string; signal?: AbortSignalLike | undefined },
  statement: Statement,
  values: unknown[],
): Promise<T> {
  const stop = stopSignalOf(signal);
  let client: OwnClient | undefined;
  try {
    stop?.throwIfAborted();
    client = clientBeside(pool);
    return await abandonOnAbort(answerOf<T>(client, query(statement, values)), [stop]);
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    stop?.throwIfAborted();
    throw new DatabaseError({ doing, cause });
  }
}

/** What a client answers that connects for it, and ends after it. */
async function answerOf<T>(client: OwnClient, asked: Query): Promise<T> {
  await within(statementDeadline, client.connect());
  const { rows } = await within(statementDeadline, client.query(asked));
  takeLeave(client);
  return JSON.parse(String(rows[0]?.[0])) as T;
}

/** Where the server has fallen silent, neither the caller nor the end of the process waits for it. */
function takeLeave(client: OwnClient): void {
  const late = setTimeout(() => destroySocket(client), statementDeadline).unref();
  client.unref?.();
  client
    .end()
    .catch(() => destroySocket(client))
    .finally(() => clearTimeout(late));
}
