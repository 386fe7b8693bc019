import type { PoolLike } from "../contract/clients.ts";
import { milliseconds } from "../contract/duration.ts";
import { DatabaseError, InvalidConfigError, StandbyError } from "../contract/errors.ts";
import { fnv } from "../contract/lock-id.ts";
import { keyBytes } from "../contract/lock-key.ts";
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
import { within } from "../runtime/clock.ts";
import { abandonOnAbort, stopSignalOf } from "../runtime/stop-signal.ts";
import { keysTold } from "./key-questions.ts";
import { descriptionIn, type LockDescription } from "./lock-description.ts";
import { endSessions, type SeenLock, type SeenTable, seenLocks, seenTable } from "./sql-inspection.ts";

/** A lock that a session or a prepared transaction has, or that somebody waits for, as PostgreSQL shows it. */
export interface LockInfo {
  readonly id: bigint;
  /**
   * Known for a dedicated session of this library, by another row with the same id, or if its holder tells it (see `keysWithin`); else
   * `undefined`.
   */
  readonly key: string | undefined;
  /** The beginning of a key that is too long to be told whole. */
  readonly keyStart: string | undefined;
  /** Known for a session of this library, and if another row tells the key; else `undefined`. */
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
  /** What `pg-locker run --name … --detail …` says of its lock. */
  readonly description: LockDescription | undefined;
  /** PostgreSQL hides the last five from this role; a member of `pg_read_all_stats` sees them. */
  readonly isHidden: boolean;
}

export interface ListLocksOptions {
  /** Those of this lock alone. Default: all. */
  readonly id?: bigint;
  /**
   * Asks the lockers that hold locks on shared sessions for the keys, which PostgreSQL doesn't know, and waits so long for their answers
   * (a number is milliseconds). Keys of lockers that don't answer by then, of those that don't hold them for a second yet, and of those
   * with `tellKeys: false`, stay unknown.
   *
   * @default nobody is asked
   */
  readonly keysWithin?: Duration;
  /** Its abort ends the look, and its connection. */
  readonly signal?: AbortSignal;
}

/**
 * The advisory locks of the pool's database: who has them, and who waits for them. Of those on one bigint, whoever took them:
 * locks of the Go package, of `pg_advisory_lock` by hand, and of prepared transactions are among them. Holders come before those
 * who wait.
 *
 * Uses a connection of its own beside the pool, and settles within 10 s.
 *
 * @throws {DatabaseError}
 * @throws {InvalidConfigError} `keysWithin` is no duration
 * @throws the signal's `reason` if it aborts
 */
export async function listLocks(pool: PoolLike, options: ListLocksOptions = {}): Promise<LockInfo[]> {
  const { id, signal } = options;
  const patience = milliseconds(options.keysWithin ?? 0);
  if (patience === undefined || patience < 0) {
    const wants = 'a duration, such as 500 or "500ms"';
    throw new InvalidConfigError({ field: "keysWithin", got: options.keysWithin, wants });
  }
  const ids = id === undefined ? null : [id.toString()];
  const { seen, told } = await ask(pool as Pool, { doing: "Looking at locks", signal }, async (client) => {
    const seen = await answerOf<SeenLock[]>(client, query(seenLocks, [ids]));
    const pids = patience === 0 ? new Set<number>() : pidsOfShared(seen);
    return {
      seen,
      told: pids.size === 0 ? undefined : await keysTold(client, { pids, milliseconds: patience }),
    };
  });
  const locks = seen.map(infoOf);
  const known = new Map<bigint, Pick<LockInfo, "key" | "namespace">>(told ?? []);
  for (const lock of locks) if (lock.key !== undefined) known.set(lock.id, lock);
  return locks
    .map((lock) => {
      const { key, namespace } = known.get(lock.id) ?? lock;
      return { ...lock, key, namespace };
    })
    .sort(byIdThenState);
}

/** The sessions that carry many locks, of whose keys they tell nothing by themselves. */
function pidsOfShared(seen: readonly SeenLock[]): Set<number> {
  return new Set(
    seen.flatMap(({ pid, name, granted }) => (granted && isSharedName(name ?? "") ? (pid ?? []) : [])),
  );
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
 * Ends the sessions of `pids`, of those of them alone that have the lock in this very moment; with a session go all its locks.
 * Their holders hear of it, by `lock.signal`.
 *
 * @returns the pids of the sessions that were told to end; the others no longer had the lock
 * @throws {DatabaseError} `sqlState` is `"42501"` if the role may not end a session: then none was ended, or not all
 */
export async function endHolders(
  pool: PoolLike,
  lock: { id: bigint; pids: readonly number[] },
): Promise<number[]> {
  const asked = query(endSessions, [lock.id.toString(), lock.pids]);
  return await ask(pool as Pool, { doing: "Ending a session" }, (client) =>
    answerOf<number[]>(client, asked),
  );
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
    stop?.throwIfAborted();
    const own = clientBeside(pool);
    client = own;
    const answered = within(statementDeadline, own.connect())
      .then(() => look(own))
      .finally(() => takeLeave(own));
    return await abandonOnAbort(answered, [stop]);
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    stop?.throwIfAborted();
    throw new DatabaseError({ doing, cause });
  }
}

async function answerOf<T>(client: OwnClient, asked: Query): Promise<T> {
  const { rows } = await within(statementDeadline, client.query(asked));
  return JSON.parse(String(rows[0]?.[0])) as T;
}

/** If the server has fallen silent, neither the caller nor the end of the process waits for it. */
function takeLeave(client: OwnClient): void {
  const late = setTimeout(() => destroySocket(client), statementDeadline).unref();
  client.unref?.();
  client
    .end()
    .catch(() => destroySocket(client))
    .finally(() => clearTimeout(late));
}
