import { randomBytes } from "node:crypto";
import { toError } from "../contract/caught-error.ts";
import { aboutKey, DatabaseError, namedLockError } from "../contract/errors.ts";
import { connectBeside, type OwnSession } from "../postgres/beside.ts";
import { cancelStatement } from "../postgres/cancel.ts";
import { destroySocket, type OwnClient, type Pool } from "../postgres/driver.ts";
import type { Recovering } from "../postgres/reservation.ts";
import { type Answer, type Session, statementDeadline } from "../postgres/session.ts";
import { waitEnded } from "../postgres/sql.ts";
import {
  type OpenWaitingAnswer,
  openWaitingScript,
  type ReleaseWaitedAnswer,
  releaseWaited,
  verdictScript,
  type WaitAnswer,
  type WaitInServer,
  waitScript,
} from "../postgres/sql-waiting.ts";
import { Deadline, elapsedSince, type Instant, now, unrefed } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { GoneListener, Grant, LockRequest, Refusal } from "./grant.ts";
import { ttlInServer } from "./least-ttl.ts";
import { proveSession } from "./prove-session.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { sessionTimeout, tcpTimeouts } from "./server-ttl.ts";
import { assertTrusted, noLongerHeld } from "./trust.ts";
import { isAlmostOver } from "./until-answered.ts";

export interface WaitingSessionParts {
  readonly pool: Pool;
  /** The session's `application_name` while nobody waits on it. */
  readonly idleName: string;
  /** The session's `application_name` while somebody waits for a key on it, or holds its lock. */
  nameFor(key: string): string;
  readonly trustPooler: boolean;
  /** Whether the server ends a holder's session that has been silent for a TTL. */
  readonly enforced: boolean;
  readonly recovery: RecoveryGrace | undefined;
  readonly events: LockEventSource;
  /** The time-out of connecting, in milliseconds. */
  readonly connectWithin: number;
  /** Called when the session is free for the next caller. */
  onIdle(session: WaitingSession): void;
  /** Called when the session has ended. */
  onEnd(session: WaitingSession): void;
}

/** How long an idle session is kept for the next wait, in milliseconds. */
const linger = 500;
/** If a grant comes after more than this share of the TTL, it is proved before the caller gets it. */
const unprovenShare = 0.1;

interface Opened {
  readonly session: Session;
  readonly client: OwnClient;
  readonly own: OwnSession;
  readonly pid: number;
  /** Whether the session may use PL/pgSQL, so that a wait that ends without the lock writes no line to the server's log. */
  readonly quiet: boolean;
  /** The unique part of the names of the session's prepared statements. */
  readonly tag: string;
}

//   new ──▶ opening ──▶ busy: waiting, carrying a lock ◀──▶ idle ── for a while ──▶ ended
//   a fault, close(), in any of them ──▶ ended
type State =
  | { readonly is: "new" }
  | { readonly is: "opening"; readonly client: OwnClient }
  | { readonly is: "busy"; readonly opened: Opened }
  | { readonly is: "idle"; readonly opened: Opened; readonly leaving: NodeJS.Timeout }
  | { readonly is: "ended"; readonly cause: Error };

/**
 * A session beside the pool on which one caller at a time waits for a lock inside the server. It then carries that lock until the lock is
 * released. It carries nothing else, so any failure ends the session, and with it every lock that it may hold.
 */
export class WaitingSession {
  readonly #parts: WaitingSessionParts;
  #state: State = { is: "new" };
  /** Settles when a cancellation has reached the server or never will. The session becomes idle only after that. */
  #cancelling: Promise<unknown> | undefined;
  #ending: Promise<void> | undefined;

  constructor(parts: WaitingSessionParts) {
    this.#parts = parts;
  }

  /**
   * Waits inside the server for at most `bound` milliseconds. Must not be called again before the wait has ended and, if it was granted,
   * the lock has been released.
   *
   * @throws {DatabaseError} @throws {StandbyError} @throws {PoolerDetectedError} @throws {LockTableFullError} the session has ended
   */
  async waitLock(request: LockRequest, bound: number): Promise<Grant | Refusal> {
    try {
      const opened = this.#leaveIdle() ?? (await this.#open(request.wanted.ttl));
      if ("refused" in opened) return opened;
      opened.client.ref?.();
      if (request.abandoned) {
        this.#rest();
        return { refused: "abandoned" };
      }
      const wait: WaitInServer = {
        id: request.wanted.id,
        mode: request.wanted.mode,
        bound: Math.max(bound, 1),
        name: this.#parts.nameFor(request.wanted.key),
        sessionTimeout: this.#parts.enforced ? sessionTimeout(ttlInServer(request.wanted)) : "0",
        fenced: request.wanted.fencing,
        quiet: opened.quiet,
        tag: opened.tag,
      };
      const { said, sentAt } = await this.#wait(opened, wait, request);
      assertTrusted(said, { pid: opened.pid, ...(said.granted && { name: wait.name }) }, doing);
      if (!said.granted) {
        void this.#restAfterCancel();
        return { refused: request.abandoned ? "abandoned" : "held" };
      }
      const lock = new WaitedLock(
        this,
        { opened, wait, token: said.token, lapses: this.#parts.enforced },
        sentAt,
      );
      if (elapsedSince(sentAt) > request.wanted.ttl * unprovenShare)
        lock.grantedAt = await lock.refresh(ttlInServer(request.wanted), statementDeadline);
      return lock;
    } catch (error) {
      this.end(toError(error));
      throw namedLockError(aboutKey(error, request.wanted.key));
    }
  }

  /** Whether its locks are those whose TTL the server enforces. */
  get enforced(): boolean {
    return this.#parts.enforced;
  }

  get idleName(): string {
    return this.#parts.idleName;
  }

  /** Resolves when no cancellation is under way that could hit the next statement. */
  async cancelled(): Promise<void> {
    await this.#cancelling;
    this.#cancelling = undefined;
  }

  /** Called when the session's lock has been released. */
  freed(): void {
    this.#rest();
  }

  /** Ends the session at once, with any lock that it has or may still be granted. A second call does nothing. */
  end(cause: Error): void {
    const state = this.#state;
    if (state.is === "ended") return;
    const opened = this.#leaveIdle() ?? (state.is === "busy" ? state.opened : undefined);
    this.#state = { is: "ended", cause };
    if (opened !== undefined) this.#parts.events.sessionClosed("waiting", opened.pid, cause);
    if (isDebugged) debug("waiting session ended", { pid: opened?.pid, cause: cause.message });
    if (opened !== undefined) opened.session.destroy(cause);
    else if (state.is === "opening") destroySocket(state.client);
    this.#parts.onEnd(this);
  }

  /** Ends the session, with a Terminate message if nobody uses it. Never rejects, and takes seconds at most. */
  close(): Promise<void> {
    this.#ending ??= this.#close();
    return this.#ending;
  }

  async #close(): Promise<void> {
    const opened = this.#leaveIdle();
    if (opened === undefined) {
      this.end(closed());
      return;
    }
    this.#state = { is: "ended", cause: closed() };
    this.#parts.events.sessionClosed("waiting", opened.pid, undefined);
    this.#parts.onEnd(this);
    await opened.own.end();
  }

  /** Makes the session busy if it is idle. */
  #leaveIdle(): Opened | undefined {
    if (this.#state.is !== "idle") return undefined;
    const { opened, leaving } = this.#state;
    clearTimeout(leaving);
    this.#state = { is: "busy", opened };
    return opened;
  }

  async #open(ttl: number): Promise<Opened | Recovering> {
    const { pool, idleName, trustPooler, enforced, connectWithin, recovery } = this.#parts;
    const doing = "Connecting to wait for the lock";
    const own = await connectBeside(pool, { doing, milliseconds: connectWithin }, (client) => {
      if (this.#state.is === "ended") throw this.#state.cause;
      this.#state = { is: "opening", client };
    });
    const { session, client } = own;
    session.onGone((cause) => this.end(cause));
    const announced = trustPooler ? undefined : session.announcedPid;
    const linkTimeouts = enforced ? tcpTimeouts(ttl) : undefined;
    const tag = randomBytes(6).toString("hex");
    const opening = openWaitingScript({ announcedPid: announced, name: idleName, tag, linkTimeouts });
    try {
      const { said } = await session.runScript<OpenWaitingAnswer>(doing, opening, statementDeadline);
      assertTrusted(said, { pid: announced }, doing);
      const refusal = await recovery?.refuses(session);
      if (refusal !== undefined) {
        session.destroy(new Error("the server's lock table is too young"));
        return refusal;
      }
      const opened = { session, client, own, pid: said.pid, quiet: said.quiet, tag };
      // Meanwhile close() may have been called, or the session may have died right after its answer.
      if (this.#state.is === "ended") throw new DatabaseError({ doing, cause: this.#state.cause });
      this.#state = { is: "busy", opened };
      this.#parts.events.sessionOpened("waiting", said.pid);
      if (isDebugged) debug("waiting session opened", { pid: said.pid });
      return opened;
    } catch (error) {
      session.destroy(toError(error));
      throw error;
    }
  }

  async #wait(opened: Opened, wait: WaitInServer, request: LockRequest): Promise<Answer<WaitAnswer>> {
    let silent: Deadline | undefined;
    const begunAt = now();
    request.sent = true;
    request.cancel = () => {
      if (!isAlmostOver(wait.bound, begunAt)) this.#cancelling ??= cancelStatement(opened.client);
      silent ??= new Deadline(statementDeadline, {
        late: () => opened.session.destroy(new Error("no answer to a wait that was cancelled")),
      });
    };
    const { session } = opened;
    try {
      const answer = await session.runScript<WaitAnswer>(
        doing,
        waitScript(wait),
        wait.bound + statementDeadline,
      );
      // The bound had passed, which rolled back the block's settings, and then the try that follows was granted the lock.
      if (!answer.said.granted || answer.said.name === wait.name) return answer;
    } catch (error) {
      // The time-out or a cancellation, which no block caught. The lock may have been granted nevertheless.
      const { sqlState } = error as DatabaseError;
      if (!waitEnded.has(sqlState)) throw error;
    } finally {
      silent?.clear();
      request.cancel = undefined;
    }
    await this.#cancelling;
    return await session.runScript<WaitAnswer>(doing, verdictScript(wait), statementDeadline);
  }

  async #restAfterCancel(): Promise<void> {
    await this.cancelled();
    this.#rest();
  }

  #rest(): void {
    if (this.#state.is !== "busy") return;
    const { opened } = this.#state;
    const leaving = unrefed(setTimeout(() => void this.close(), linger));
    this.#state = { is: "idle", opened, leaving };
    opened.client.unref?.();
    this.#parts.onIdle(this);
  }
}

const doing = "Waiting for the lock";
const closed = (): Error => new Error("the locker was closed");

interface Waited {
  readonly opened: Opened;
  readonly wait: WaitInServer;
  readonly token: string | null;
  readonly lapses: boolean;
}

/** A lock that was waited for inside the server. Its session carries no other lock. */
class WaitedLock implements Grant {
  readonly fencingToken: bigint | undefined;
  /** Whether the server enforces the TTL, so that the lock ends when it passes. */
  readonly lapses: boolean;
  grantedAt: Instant;
  readonly #owner: WaitingSession;
  readonly #waited: Waited;
  #stopListening: (() => void) | undefined;

  constructor(owner: WaitingSession, waited: Waited, grantedAt: Instant) {
    this.#owner = owner;
    this.#waited = waited;
    this.grantedAt = grantedAt;
    this.fencingToken = waited.token === null ? undefined : BigInt(waited.token);
    this.lapses = waited.lapses;
  }

  get pid(): number {
    return this.#waited.opened.pid;
  }

  get goneBecause(): Error | undefined {
    return this.#waited.opened.session.goneBecause;
  }

  onGone(listener: GoneListener): void {
    this.#stopListening = this.#waited.opened.session.onGone((cause) => listener.gone(cause));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    const { opened, wait } = this.#waited;
    const known = { pid: opened.pid, name: wait.name, lapses: this.lapses };
    try {
      return await proveSession(opened.session, known, { ttl, deadline });
    } catch (error) {
      this.#owner.end(toError(error));
      throw error;
    }
  }

  async release(): Promise<void> {
    const { opened, wait } = this.#waited;
    const releasing = "Giving back the lock";
    try {
      await this.#owner.cancelled();
      const values = [this.#owner.idleName, wait.id.toString()];
      const { said } = await opened.session.run<ReleaseWaitedAnswer>(
        releasing,
        releaseWaited[wait.mode],
        values,
        statementDeadline,
      );
      if (!said[0]) {
        throw new DatabaseError({ doing: releasing, cause: noLongerHeld() });
      }
    } catch (error) {
      this.#owner.end(toError(error));
      throw error;
    }
    // The session goes on, for the next wait.
    this.#stopListening?.();
    this.#owner.freed();
  }
}
