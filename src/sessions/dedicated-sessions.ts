import { toError } from "../contract/caught-error.ts";
import { aboutKey, DatabaseError, namedLockError } from "../contract/errors.ts";
import { applicationName } from "../postgres/application-name.ts";
import { hasRoom, type Pool } from "../postgres/driver.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  type LockKind,
  type SessionSettings,
  type TryLockAnswer,
  tryLock,
  type UnlockAnswer,
  unlock,
} from "../postgres/sql.ts";
import type { Instant } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import {
  type GoneListener,
  type Grant,
  type LockRequest,
  type Refusal,
  type TryListener,
  tell,
} from "./grant.ts";
import { ttlInServer } from "./least-ttl.ts";
import { FreeLockChecks } from "./look-for-free.ts";
import { proveSession } from "./prove-session.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { reserveFor } from "./reserve-for.ts";
import { sessionTimeout, tcpTimeouts } from "./server-ttl.ts";
import { assertTrusted, noLongerHeld } from "./trust.ts";

export interface DedicatedSessionsOptions {
  readonly pool: Pool;
  readonly namespace: number;
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  readonly ttlEnforcement: "client" | "server";
  readonly recovery: RecoveryGrace | undefined;
  readonly events: LockEventSource;
}

/** Uses one session of the pool for each lock for as long as the lock is held, as the Go package does. */
export class DedicatedSessions {
  readonly #options: DedicatedSessionsOptions;
  readonly #enforced: boolean;
  readonly #looks: FreeLockChecks;
  readonly #sessions = new Set<Session>();

  constructor(options: DedicatedSessionsOptions) {
    this.#options = options;
    this.#looks = new FreeLockChecks({ pool: options.pool, wait: options.connWaitTimeout });
    this.#enforced = options.ttlEnforcement === "server";
  }

  /**
   * Tries for a lock once. Fails with a {@link LockNotAcquiredError} with the reason `"connection-timeout"`, a {@link StandbyError},
   * a {@link PoolerDetectedError} or a {@link DatabaseError}.
   */
  tryLock(request: LockRequest, listener: TryListener<Grant>): void {
    tell(listener, this.#tryLock(request));
  }

  async #tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const { key, id, mode, ttl, fencing } = request.wanted;
    const { pool, namespace, connWaitTimeout, pooler, recovery, events } = this.#options;
    const session = await reserveFor(request, { pool, wait: connWaitTimeout });
    if ("refused" in session) return session;
    // In this step, as the statement is sent: the caller may have left after the session came.
    if (request.abandoned) {
      session.return();
      return { refused: "abandoned" };
    }
    const announced = pooler === "session" ? undefined : session.announcedPid;
    const name = applicationName(namespace, key);
    const kind: LockKind = {
      mode,
      enforced: this.#enforced,
      fenced: fencing,
      witness: recovery?.grace,
    };
    const values = [
      id.toString(),
      announced?.toString() ?? null,
      name,
      this.#enforced ? sessionTimeout(ttlInServer(request.wanted)) : "0",
    ];
    if (this.#enforced) values.push(...tcpTimeouts(ttl));
    const doing = "Taking the lock";
    request.sent = true;
    try {
      // In a transaction, `idle_session_timeout` doesn't apply: if the link died, the lock would stay as long as the server keeps the session.
      session.assertOutsideTransaction(doing);
      const refusal = recovery === undefined ? undefined : await recovery.refuses(session);
      if (refusal !== undefined) {
        session.return();
        return refusal;
      }
      const within = Math.min(statementDeadline, ttl);
      const { said, sentAt } = await session.run<TryLockAnswer>(doing, tryLock(kind), values, within);
      if (said.granted === true && said.before !== null) {
        this.#count(session, said.pid);
        events.sessionOpened("dedicated", said.pid);
        if (isDebugged) debug("session reserved", { pid: said.pid, key });
        const opened = { key, id, kind, said, name, before: said.before, recovery };
        return new DedicatedLock(session, opened, {
          grantedAt: sentAt,
          onReturn: () => {
            this.#sessions.delete(session);
            events.sessionClosed("dedicated", said.pid, undefined);
          },
        });
      }
      if (said.granted === false) {
        await recovery?.leave(session);
        session.return();
        return { refused: "held" };
      }
      assertTrusted(said, { pid: announced }, doing);
      throw new DatabaseError({ doing, cause: new Error("it was neither granted nor refused") });
    } catch (error) {
      // An error says nothing about whether the lock was granted: session locks survive a failed statement.
      session.destroy(toError(error));
      throw namedLockError(aboutKey(error, key));
    }
  }

  /** How many sessions carry a lock. */
  get size(): number {
    return this.#sessions.size;
  }

  #count(session: Session, pid: number): void {
    this.#sessions.add(session);
    session.onGone((cause) => {
      if (!this.#sessions.delete(session)) return;
      this.#options.events.sessionClosed("dedicated", pid, cause);
      if (isDebugged) debug("session lost", { cause: cause.message });
    });
  }

  /** Whether the pool would hand out a connection without queueing. */
  canTry(): boolean {
    return hasRoom(this.#options.pool);
  }

  /**
   * Tries for a lock only if it looks free in the server's list of locks, which one query reads for all simultaneous callers: each try
   * needs a connection of the pool. Fails as {@link tryLock} does.
   */
  pollLock(request: LockRequest, listener: TryListener<Grant>): void {
    tell(listener, this.#pollLock(request));
  }

  async #pollLock(request: LockRequest): Promise<Grant | Refusal> {
    const free = await this.#looks.isFree(request);
    if (free !== true) return free === false ? { refused: "held" } : free;
    return request.abandoned ? { refused: "abandoned" } : await this.#tryLock(request);
  }

  /** Does nothing: every session belongs to a lock and ends with it. */
  async close(): Promise<void> {}
}

/** A lock, and the settings that its session had before. */
interface Opened {
  readonly key: string;
  readonly id: bigint;
  readonly kind: LockKind;
  readonly said: TryLockAnswer;
  readonly name: string;
  readonly before: SessionSettings;
  readonly recovery: RecoveryGrace | undefined;
}

class DedicatedLock implements Grant {
  readonly #session: Session;
  readonly #opened: Opened;
  readonly fencingToken: bigint | undefined;
  readonly lapses: boolean;
  readonly grantedAt: Instant;
  readonly #onReturn: () => void;

  constructor(session: Session, opened: Opened, at: { grantedAt: Instant; onReturn(): void }) {
    this.grantedAt = at.grantedAt;
    this.#onReturn = at.onReturn;
    this.#session = session;
    this.#opened = opened;
    const { token } = opened.said;
    this.fencingToken = token === null ? undefined : BigInt(token);
    this.lapses = opened.kind.enforced;
  }

  get pid(): number {
    return this.#opened.said.pid;
  }

  get goneBecause(): Error | undefined {
    return this.#session.goneBecause;
  }

  onGone(listener: GoneListener): void {
    this.#session.onGone((cause) => listener.gone(cause));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    const { name, said } = this.#opened;
    const known = { pid: said.pid, name, lapses: this.lapses };
    try {
      return await proveSession(this.#session, known, { ttl, deadline });
    } catch (error) {
      throw this.#destroyed(error);
    }
  }

  async release(): Promise<void> {
    const doing = "Giving back the lock";
    const { id, kind, before, recovery } = this.#opened;
    const values = [id.toString(), ...before];
    try {
      const { said } = await this.#session.run<UnlockAnswer>(doing, unlock(kind), values, statementDeadline);
      const [wasHeld] = said;
      if (!wasHeld) throw new DatabaseError({ doing, cause: noLongerHeld() });
      await recovery?.leave(this.#session);
      this.#session.return();
      this.#onReturn();
      if (isDebugged) debug("session returned", { pid: this.#opened.said.pid, key: this.#opened.key });
    } catch (error) {
      throw this.#destroyed(error);
    }
  }

  /** Destroys the session after a failure, because then only the end of the session is sure to free the lock. */
  #destroyed(error: unknown): unknown {
    this.#session.destroy(toError(error));
    return aboutKey(error, this.#opened.key);
  }
}
