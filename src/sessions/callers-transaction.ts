import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, LockExpiredError, StandbyError } from "../contract/errors.ts";
import { isCancellable } from "../postgres/cancel.ts";
import { statementDeadline } from "../postgres/session.ts";
import { waitEnded } from "../postgres/sql.ts";
import {
  hasFailed,
  keepAlive,
  type LookAnswer,
  lookAfterWait,
  lookAtEnd,
  type Mark,
  newMark,
  releaseSavepoint,
  type TryAnswer,
  tryTransactionLock,
  waitForLock,
  waitForLockPlainly,
} from "../postgres/sql-transaction.ts";
import { type Instant, now } from "../runtime/clock.ts";
import { Stop } from "../runtime/stop-signal.ts";
import { Conversation } from "./conversation.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import type { AskTransaction, RecoveryGrace } from "./recovery-grace.ts";
import { sessionTimeout } from "./server-ttl.ts";
import { TransactionHeartbeat } from "./transaction-heartbeat.ts";
import {
  aboutLock,
  countTtl,
  lockTimeout,
  type TransactionLock,
  type TransactionTtl,
  type TransactionWait,
  takingTheLock,
  ttlWithin,
  untilAnswered,
  waitingForTheLock,
} from "./transaction-lock.ts";

// A transaction that is the caller's. All that is asked of its client is `query(text, values)`, with a row's value by its
// column's name, so that a transaction of any library can be made to fit. What is done to take the lock is between a savepoint
// and its release:
//
//     savepoint ── try ─┬─ granted ───────────────────────────┬─ kept ──▶ release savepoint
//                       └─ refused ── wait, at most once ─────┘
//     a refusal, an error, nobody wants it any more ──▶ rollback to savepoint ──▶ release savepoint

interface CallersTry {
  readonly recovery?: RecoveryGrace | undefined;
  /** The call is made by a function that runs under a lock of the same transaction. */
  readonly isWithin?: boolean;
}

/** A wait in a transaction of the caller's. */
export interface CallersWait extends TransactionWait, CallersTry {
  /**
   * Cancels the wait of the session with this pid, where the client is not node-postgres's own. Without it, such a wait goes on
   * until its bound.
   */
  readonly cancel?: ((pid: number, id: bigint) => Promise<void>) | undefined;
}

/**
 * Takes the lock in a transaction that its caller has open, and ends, or is refused. Whatever goes wrong, the transaction is
 * then as it was before; only where the client itself fails is that not sure.
 *
 * @throws {InvalidConfigError} the client is not in a transaction, or doesn't answer as a client does
 * @throws {StandbyError} @throws {LockTableFullError} @throws {DatabaseError}
 */
export function tryLockOn(
  client: TransactionClient,
  request: LockRequest,
  { ttl, isWithin = false, recovery }: TransactionTtl & CallersTry = {},
): Promise<TransactionLock | Refusal> {
  return inTurn(client, () => take(client, request, { ttl, recovery }), isWithin);
}

/**
 * The same, and waits in the server for the lock, for one bound at most. A wait that is aborted ends with the refusal
 * `"abandoned"`, and no lock of it is left in the transaction: at once, if the client is node-postgres's own or `cancel` is
 * given.
 *
 * @throws what {@link tryLockOn} throws; {DatabaseError} 40P01, if this and other transactions wait for each other
 */
export function waitLockOn(
  client: TransactionClient,
  request: LockRequest,
  wait: CallersWait,
): Promise<TransactionLock | Refusal> {
  return inTurn(
    client,
    async () =>
      wait.signal.aborted
        ? { refused: "abandoned" }
        : take(client, request, { ttl: wait.ttl, recovery: wait.recovery, wait }),
    wait.isWithin ?? false,
  );
}

/** By client, what ends when the last of what was to be done on it has. */
const turns = new WeakMap<object, Promise<unknown>>();

/** By client, what ends when the functions have ended that run under its locks, but those that run within another. */
const functions = new WeakMap<object, Promise<unknown>>();

/**
 * One after the other: two that are called at once must not be between each other's savepoints. Nor may a second one begin while the
 * function of the first runs, unless that has called it: going back to its savepoint would undo what the function wrote meanwhile.
 */
function inTurn<T>(client: object, work: () => Promise<T>, isWithin: boolean): Promise<T> {
  if (!isWithin) {
    const result = (functions.get(client) ?? Promise.resolve()).then(() => inTurn(client, work, true));
    const ended = result.then(
      (lock) => (lock instanceof CallersTransaction ? lock.ended : undefined),
      () => {},
    );
    functions.set(client, ended);
    return result;
  }
  const result = (turns.get(client) ?? Promise.resolve()).then(work);
  const turn = result.then(
    (lock) => (lock instanceof CallersTransaction ? lock.settled : undefined),
    () => {},
  );
  turns.set(client, turn);
  return result;
}

/** Resolves when nothing of the last call on a client of the caller's is under way, nor what undoes it. To be called with it. */
export async function untilSettled(client: object, isWithin: boolean): Promise<void> {
  await (isWithin ? turns : functions).get(client);
}

async function take(
  client: TransactionClient,
  request: LockRequest,
  asked: { ttl: number | undefined; recovery: RecoveryGrace | undefined; wait?: CallersWait },
): Promise<TransactionLock | Refusal> {
  if (request.abandoned) return { refused: "abandoned" };
  const { key } = request;
  const { ttl, recovery, wait } = asked;
  const conversation = new Conversation(client, { doing: takingTheLock, key });
  request.sent = true;
  await conversation.begin();
  const smallest = ttl === undefined ? undefined : ttlWithin(client, ttl);
  let granted: CallersGrant | Refusal;
  try {
    const ask: AskTransaction = (statement, values) => conversation.ask(statement, values);
    granted =
      (await recovery?.refusesTransaction(client, ask)) ??
      (await tryAndWait(conversation, { request, ttl: smallest, wait }));
  } catch (error) {
    await conversation.undo();
    throw aboutLock(error, key);
  }
  if ("refused" in granted) {
    await conversation.undo();
    return granted;
  }
  return new CallersTransaction(client, { ...granted, key, ttl, conversation });
}

interface CallersGrant {
  readonly mark: Mark;
  readonly provenAt: Instant;
  /** What `idle_in_transaction_session_timeout` was. */
  readonly idleTimeout: string;
}

async function tryAndWait(
  conversation: Conversation,
  asked: { request: LockRequest; ttl: number | undefined; wait: CallersWait | undefined },
): Promise<CallersGrant | Refusal> {
  const { request, ttl, wait } = asked;
  const { id, mode } = request;
  const mark = newMark();
  const provenAt = now();
  const tried = await conversation.ask<TryAnswer>(tryTransactionLock[mode], [
    id.toString(),
    mark,
    ttl === undefined ? null : sessionTimeout(ttl),
    wait === undefined ? null : lockTimeout(wait.bound),
  ]);
  if (tried.standby) throw new StandbyError();
  const [lock, statementTime, idleTimeout] = tried.before;
  if (tried.granted) return abandonedOr({ mark, provenAt, idleTimeout }, request, wait);
  if (tried.mine) return { refused: "held", byItself: true };
  if (wait === undefined) return { refused: "held" };
  if (wait.signal.aborted) return { refused: "abandoned" };
  const wanted = (tried.blocks ? waitForLock : waitForLockPlainly)({ id, mode, mark });
  try {
    await untilAnswered(
      conversation.tell(wanted, { doing: waitingForTheLock, deadline: wait.bound + statementDeadline }),
      wait.signal,
      () => conversation.cancel(wanted, () => wait.cancel?.(tried.pid, id)),
    );
  } catch (error) {
    if (!(error instanceof DatabaseError) || !waitEnded.has(error.sqlState)) throw error;
    return { refused: wait.signal.aborted ? "abandoned" : "held" };
  }
  if (wait.signal.aborted) return { refused: "abandoned" };
  const sentAt = now();
  const { held } = await conversation.ask<LookAnswer>(lookAfterWait, [mark, lock, statementTime]);
  return held ? abandonedOr({ mark, provenAt: sentAt, idleTimeout }, request, wait) : { refused: "held" };
}

function abandonedOr(
  granted: CallersGrant,
  request: LockRequest,
  wait: CallersWait | undefined,
): CallersGrant | Refusal {
  return request.abandoned || wait?.signal.aborted ? { refused: "abandoned" } : granted;
}

interface CallersFacts extends CallersGrant {
  readonly key: string;
  readonly ttl: number | undefined;
  readonly conversation: Conversation;
}

class CallersTransaction implements TransactionLock {
  readonly client: TransactionClient;
  readonly isOpen = false;
  readonly lost = new Stop();
  /** Resolves when it is kept or given up: until then its savepoint is the client's last. */
  readonly settled: Promise<void>;
  /** Resolves when its function has ended. */
  readonly ended: Promise<void>;
  readonly #facts: CallersFacts;
  readonly #heartbeat: TransactionHeartbeat | undefined;
  readonly #uncount: (() => void) | undefined;
  #settle: () => void = () => {};
  #resolveEnded: () => void = () => {};
  #isKept = false;

  constructor(client: TransactionClient, facts: CallersFacts) {
    this.client = client;
    this.#facts = facts;
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    const { key, ttl, provenAt } = facts;
    if (ttl === undefined) return;
    this.#uncount = countTtl(client, ttl);
    // What runs beside a function's own statements is not for every library's client.
    if (!isCancellable(client)) return;
    this.#heartbeat = new TransactionHeartbeat({
      ttl,
      provenAt,
      beat: () => client.query(keepAlive.text, []),
      expired: () => this.lost.abort(new LockExpiredError({ key, ttl })),
    });
  }

  async keep(): Promise<void> {
    this.#isKept = true;
    try {
      await this.#facts.conversation.tell(releaseSavepoint);
    } finally {
      this.#settle();
    }
  }

  async commit(): Promise<void> {
    try {
      await this.#end();
    } finally {
      this.#resolveEnded();
    }
  }

  /** Never rejects: the transaction is the caller's, who is told what `fn` threw. */
  async release(): Promise<void> {
    try {
      await this.#release();
    } finally {
      this.#resolveEnded();
    }
  }

  async #release(): Promise<void> {
    if (!this.#isKept) {
      this.#heartbeat?.stop();
      this.#uncount?.();
      await this.#facts.conversation.undo();
      this.#settle();
      return;
    }
    const ended = this.#end().catch(() => {});
    // On a link that is dead there is no answer; on one that is not, the settings are put back all the same.
    if (!this.lost.aborted) await ended;
  }

  /** @throws {DatabaseError} the lock was not held any more, or nobody knows */
  async #end(): Promise<void> {
    const { key, ttl, mark, idleTimeout } = this.#facts;
    this.#heartbeat?.look();
    this.#heartbeat?.stop();
    this.#uncount?.();
    const doing = "Keeping the lock";
    const look = async (): Promise<void> => {
      const conversation = new Conversation(this.client, { doing, key });
      const { held } = await conversation
        .ask<LookAnswer>(lookAtEnd, [mark, ttl === undefined ? null : idleTimeout])
        .catch((error) => {
          if (this.lost.aborted) throw this.lost.reason;
          const failed = error instanceof DatabaseError && error.sqlState === hasFailed;
          if (!failed) throw error;
          const cause = new Error("a statement of the transaction had failed, which ended the lock");
          throw new DatabaseError({ doing, key, cause });
        });
      if (this.lost.aborted) throw this.lost.reason;
      if (held) return;
      const cause = new Error(
        "the function had ended the transaction itself, or gone back to before the lock, and so ended the lock",
      );
      throw new DatabaseError({ doing, key, cause });
    };
    await inTurn(this.client, look, true);
  }
}
