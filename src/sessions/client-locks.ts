import { hasCode } from "../contract/caught-error.ts";
import type { SessionClient } from "../contract/clients.ts";
import {
  aboutKey,
  DatabaseError,
  InvalidConfigError,
  LockerError,
  LockNotAcquiredError,
  namedLockError,
} from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { show } from "../contract/shown-value.ts";
import { announcedBackend, isOpen } from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import {
  type LookClientAnswer,
  lookForClientLock,
  type TryClientAnswer,
  tryClientLock,
  type UnlockClientAnswer,
  unlockClient,
} from "../postgres/sql-client.ts";
import { hasFailed } from "../postgres/sql-transaction.ts";
import { waitOnClient } from "../postgres/sql-waiting.ts";
import { type Instant, now, setImmediate, soon, within } from "../runtime/clock.ts";
import { abandonOnAbort, Stop } from "../runtime/stop-signal.ts";
import { listenTo, stopListeningTo } from "./client-events.ts";
import { ClientStore } from "./client-store.ts";
import { sayTo, waitOn } from "./client-turns.ts";
import type { FencingTokens } from "./fencing-tokens.ts";
import type { GoneListener, Grant, LockRequest, Refusal } from "./grant.ts";
import type { AskTransaction, RecoveryGrace } from "./recovery-grace.ts";
import { assertTrusted, noLongerHeld } from "./trust.ts";
import { lockTimeout } from "./until-answered.ts";

const taking = "Taking the lock";

export interface ClientLocksOptions {
  readonly trustPooler: boolean;
  /** Whether the server is to enforce TTLs, which it can't do on callers' sessions. */
  readonly enforced: boolean;
  readonly recovery: RecoveryGrace | undefined;
  readonly tokens: FencingTokens;
}

/**
 * Locks on callers' sessions. The locker's statements queue behind the caller's own, and the locker never ends a caller's connection: if
 * an answer comes too late, a lock that it grants is given back then.
 */
export class ClientLocks {
  readonly #options: ClientLocksOptions;

  constructor(options: ClientLocksOptions) {
    this.#options = options;
  }

  /** The store for locks on a client. @throws {InvalidConfigError} */
  storeOn(client: SessionClient): ClientStore {
    if (this.#options.enforced) {
      const wants =
        'absent with `ttlEnforcement: "server"`: the server would have to end the caller\'s session';
      throw new InvalidConfigError({ field: "client", got: client, wants });
    }
    return new ClientStore(this, client);
  }

  /** Closes the connection that draws fencing tokens. Never rejects, and takes seconds at most. */
  close(): Promise<void> {
    return this.#options.tokens.close();
  }

  /**
   * Tries for a lock on the client's session, without waiting in the server.
   *
   * @throws {InvalidConfigError} `client` is not a node-postgres client with an open connection
   * @throws {LockNotAcquiredError} the session itself already has the lock
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {LockTableFullError} @throws {DatabaseError}
   */
  tryLock(client: SessionClient, request: LockRequest): Promise<Grant | Refusal> {
    return this.#take(client, request, undefined);
  }

  /** Like {@link tryLock}, but waits inside the server for at most `bound` milliseconds. */
  waitLock(client: SessionClient, request: LockRequest, bound: number): Promise<Grant | Refusal> {
    return this.#take(client, request, bound);
  }

  async #take(
    client: SessionClient,
    request: LockRequest,
    bound: number | undefined,
  ): Promise<Grant | Refusal> {
    const { key, id, ttl } = request.wanted;
    if (announcedBackend(client) === undefined || !isOpen(client)) {
      const wants = `a client of node-postgres, with its connection open, but ${show(client)} has none that is open`;
      throw new InvalidConfigError({ field: "client", wants });
    }
    // A caller that has given up may still have a wait in the server that is being cancelled.
    const before = leaving.get(client)?.get(id);
    if (before !== undefined) await before;
    if (request.abandoned) return { refused: "abandoned" };
    const ids = idsOn(client);
    if (ids.has(id)) throw new LockNotAcquiredError({ key, reason: "held", ownHold: { by: "client" } });
    ids.add(id);
    const left = new Stop();
    let patience: NodeJS.Timeout | undefined;
    request.sent = true;
    const tooLate = new Stop();
    const asked = this.#ask(client, request, { bound, left });
    request.cancel = () => {
      left.abort(undefined);
      leave(client, id, asked);
      patience ??= setTimeout(() => tooLate.abort(new Error("no answer")), statementDeadline);
    };
    // The client is the caller's code, which may have ended the attempt during the call.
    if (request.abandoned) request.cancel();
    let isOver = false;
    asked.catch(() => {
      isOver = true;
    });
    try {
      // A lock that is granted after its TTL is useless.
      const deadline = (bound ?? 0) + Math.max(ttl, statementDeadline);
      const granted = await within(deadline, abandonOnAbort(asked, [tooLate]));
      if (!(granted instanceof ClientLock)) ids.delete(id);
      return granted;
    } catch (error) {
      if (isOver) ids.delete(id);
      else void this.#undo(asked, () => ids.delete(id));
      throw namedLockError(aboutTaking(error, key));
    } finally {
      clearTimeout(patience);
      request.cancel = undefined;
    }
  }

  /** Waits for the answer of an abandoned attempt, which may queue behind the caller's statements, and releases the lock if it was granted. Never rejects. */
  async #undo(asked: Promise<ClientLock | Refusal>, over: () => void): Promise<void> {
    try {
      const late = await asked;
      if (late instanceof ClientLock) await late.release();
    } catch {
      // Either the lock is not held, or the next attempt on this client will find that it is.
    }
    over();
  }

  async #ask(
    client: SessionClient,
    request: LockRequest,
    { bound, left }: { bound: number | undefined; left: Stop },
  ): Promise<ClientLock | Refusal> {
    const { id, mode, fencing } = request.wanted;
    const { trustPooler, recovery, tokens } = this.#options;
    const announced = trustPooler ? undefined : announcedBackend(client);
    const ask: AskTransaction = (statement, values) => sayTo(client, statement, values);
    const refusal = await recovery?.refusesTransaction(client, ask);
    if (refusal !== undefined) return refusal;
    let sentAt = now();
    const values = [id.toString(), announced?.toString() ?? null];
    const tried = await sayTo<TryClientAnswer>(client, tryClientLock[mode], values);
    assertTrusted(tried, { pid: announced }, taking);
    if (tried.mine) {
      throw new LockNotAcquiredError({ key: request.wanted.key, reason: "held", ownHold: { by: "client" } });
    }
    if (tried.granted !== true) {
      if (bound === undefined) return { refused: "held" };
      if (left.aborted) return { refused: "abandoned" };
      if (tried.blocks !== true) {
        throw new Error("a wait on the caller's client needs PL/pgSQL, which the role may not use");
      }
      await waitOn(client, waitOnClient({ id, mode, bound: lockTimeout(bound) }), { bound, left });
      sentAt = now();
      const look = [id.toString(), tried.lockTimeout];
      const seen = await sayTo<LookClientAnswer>(client, lookForClientLock, look);
      assertTrusted(seen, { pid: tried.pid }, taking);
      if (!seen.held) return { refused: left.aborted ? "abandoned" : "held" };
    }
    const lock = new ClientLock(client, { key: request.wanted.key, id, mode, pid: tried.pid }, sentAt);
    if (!fencing) return lock;
    try {
      const prove = async (): Promise<void> => {
        lock.grantedAt = await lock.refresh(request.wanted.ttl, statementDeadline);
      };
      lock.fencingToken = await tokens.draw(tried.server, prove);
    } catch (error) {
      await lock.release().catch(() => {});
      throw error;
    }
    return lock;
  }
}

/** For each client, the attempts whose caller has given up. */
const leaving = new WeakMap<object, Map<bigint, Promise<void>>>();

function leave(client: object, id: bigint, asked: Promise<unknown>): void {
  const all = leaving.get(client) ?? new Map<bigint, Promise<void>>();
  leaving.set(client, all);
  const gone = asked
    .catch(() => {})
    // The outcome is recorded in the steps after that.
    .then(() => new Promise<void>((resolve) => setImmediate(resolve)))
    .then(() => void all.delete(id));
  all.set(id, gone);
}

/** For each client, the ids of the locks that this library holds or is acquiring on it. */
const ids = new WeakMap<object, Set<bigint>>();

function idsOn(client: object): Set<bigint> {
  const known = ids.get(client) ?? new Set();
  ids.set(client, known);
  return known;
}

function aboutTaking(error: unknown, key: string): unknown {
  return error instanceof LockerError
    ? aboutKey(error, key)
    : new DatabaseError({ doing: taking, key, cause: error });
}

interface Taken {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly pid: number;
}

class ClientLock implements Grant {
  fencingToken: bigint | undefined;
  /** False: the server never ends the lock by its TTL, only with its session. */
  readonly lapses = false;
  grantedAt: Instant;
  #goneBecause: Error | undefined;
  #listener: GoneListener | undefined;
  readonly #client: SessionClient;
  readonly #taken: Taken;

  constructor(client: SessionClient, taken: Taken, grantedAt: Instant) {
    this.#client = client;
    this.#taken = taken;
    this.grantedAt = grantedAt;
    listenTo(client, "error", this.#onError);
    listenTo(client, "end", this.#onEnd);
    if (!isOpen(client)) this.#onEnd();
  }

  get pid(): number {
    return this.#taken.pid;
  }

  get goneBecause(): Error | undefined {
    return this.#goneBecause;
  }

  onGone(listener: GoneListener): void {
    const gone = this.#goneBecause;
    if (gone === undefined) this.#listener = listener;
    else soon(() => listener.gone(gone));
  }

  async refresh(_ttl: number, deadline: number): Promise<Instant> {
    const { key, id, pid } = this.#taken;
    const doing = "Refreshing the lock";
    const sentAt = now();
    try {
      const look = sayTo<LookClientAnswer>(this.#client, lookForClientLock, [id.toString(), null]);
      const seen = await within(deadline, look);
      assertTrusted(seen, { pid }, doing);
      if (!seen.held) {
        this.#forget();
        throw new DatabaseError({ doing, key, cause: new Error("the session no longer had it") });
      }
    } catch (error) {
      if (error instanceof DatabaseError) throw error;
      // The session is alive, but in a failed transaction it can't run anything, not even an unlock.
      if (!isOfFailedTransaction(error)) {
        // The holder no longer relies on the lock, but the session may still have it.
        this.release().catch(() => {});
        throw error;
      }
    }
    return sentAt;
  }

  async release(): Promise<void> {
    const doing = "Giving back the lock";
    this.#listener = undefined;
    try {
      if (this.#goneBecause !== undefined) throw this.#goneBecause;
      const unlocking = this.#unlock();
      unlocking.then(this.#forget, this.#forget);
      const wasHeld = await within(statementDeadline, unlocking);
      if (!wasHeld) throw noLongerHeld();
    } catch (cause) {
      if (isOfFailedTransaction(cause)) this.#unlockLater();
      else throw new DatabaseError({ doing, key: this.#taken.key, cause });
    }
  }

  async #unlock(): Promise<boolean> {
    const { id, mode } = this.#taken;
    return (await sayTo<UnlockClientAnswer>(this.#client, unlockClient[mode], [id.toString()])).held;
  }

  /**
   * Releases the lock later. In a failed transaction the server accepts nothing except the transaction's end, so the unlock is tried
   * again each time the client has finished a statement.
   */
  #unlockLater(): void {
    idsOn(this.#client).add(this.#taken.id);
    let isAsking = false;
    const retry = (): void => {
      // The end of our own statement triggers this as well.
      if (isAsking) return;
      isAsking = true;
      const over = (): void => {
        stopListeningTo(this.#client, "drain", retry);
        this.#forget();
      };
      this.#unlock().then(over, (error: unknown) => {
        isAsking = false;
        if (!isOfFailedTransaction(error)) over();
      });
    };
    listenTo(this.#client, "drain", retry);
  }

  readonly #forget = (): void => {
    idsOn(this.#client).delete(this.#taken.id);
    stopListeningTo(this.#client, "error", this.#onError);
    stopListeningTo(this.#client, "end", this.#onEnd);
  };

  readonly #onError = (error: Error): void => this.#gone(error);
  readonly #onEnd = (): void => this.#gone(new Error("the connection was closed"));

  #gone(cause: Error): void {
    if (this.#goneBecause !== undefined) return;
    this.#goneBecause = cause;
    idsOn(this.#client).delete(this.#taken.id);
    this.#listener?.gone(cause);
  }
}

function isOfFailedTransaction(error: unknown): boolean {
  return hasCode(error, hasFailed);
}
