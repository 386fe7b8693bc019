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
import { Deadline, elapsedSince, type Instant } from "../runtime/clock.ts";
import { debug } from "../runtime/debug-log.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { GoneListener, Grant, LockRequest, Refusal } from "./grant.ts";
import { proveSession } from "./prove-session.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { sessionTimeout, tcpTimeouts } from "./server-ttl.ts";
import { assertTrusted, noLongerHeld } from "./trust.ts";

export interface WaitingSessionParts {
  readonly pool: Pool;
  /** `application_name` of the session as long as nobody waits on it. */
  readonly idleName: string;
  /** `application_name` as long as somebody waits for a key, or holds its lock. */
  nameFor(key: string): string;
  readonly trustPooler: boolean;
  /** The server ends the session of a holder a TTL after it last heard from it. */
  readonly enforced: boolean;
  readonly recovery: RecoveryGrace | undefined;
  readonly events: LockEventSource;
  /** Milliseconds to connect in. */
  readonly connectWithin: number;
  /** The next caller may wait on it. */
  onIdle(session: WaitingSession): void;
  /** It is gone. */
  onEnd(session: WaitingSession): void;
}

/** Milliseconds that a session is kept for the next wait. */
const linger = 500;
/** A grant that comes later than this share of the TTL after the wait was asked for is proved before anybody relies on it. */
const unprovenShare = 0.1;

interface Opened {
  readonly session: Session;
  readonly client: OwnClient;
  readonly own: OwnSession;
  readonly pid: number;
  /** Whether it may use PL/pgSQL, so that a wait that ends without the lock leaves no line in the server's log. */
  readonly quiet: boolean;
  /** In the names of its prepared statements. */
  readonly tag: string;
}

//   new ──▶ busy: opening, waiting, carrying a lock ◀──▶ idle ── for a while ──▶ ended
//             └── a fault, close() ──────────────────────▶ ended
type State =
  | { readonly is: "new" }
  | { readonly is: "busy" }
  | { readonly is: "idle"; readonly leaving: NodeJS.Timeout }
  | { readonly is: "ended" };

/**
 * A session beside the pool, on which one caller at a time waits for a lock inside the server, and which then carries that lock until
 * it is released. It has nothing else, so whatever goes wrong ends it, and with it every lock that it may have.
 */
export class WaitingSession {
  readonly #parts: WaitingSessionParts;
  #state: State = { is: "new" };
  #client: OwnClient | undefined;
  #opened: Opened | undefined;
  /** Settles when a cancel has reached the server or never will; a session is idle only afterwards. */
  #cancelling: Promise<unknown> | undefined;
  #ending: Promise<void> | undefined;

  constructor(parts: WaitingSessionParts) {
    this.#parts = parts;
  }

  /**
   * Waits inside the server, for `bound` milliseconds at most. Between its call and the end of the wait, or of the lock, nobody else
   * may call it.
   *
   * @throws {DatabaseError} @throws {StandbyError} @throws {PoolerDetectedError} @throws {LockTableFullError} then it has ended
   */
  async waitLock(request: LockRequest, bound: number): Promise<Grant | Refusal> {
    if (this.#state.is === "idle") clearTimeout(this.#state.leaving);
    this.#state = { is: "busy" };
    try {
      const opened = this.#opened ?? (await this.#open(request.ttl));
      if ("refused" in opened) return opened;
      opened.client.ref?.();
      if (request.abandoned) {
        this.#rest();
        return { refused: "abandoned" };
      }
      const wait: WaitInServer = {
        id: request.id,
        mode: request.mode,
        bound: Math.max(bound, 1),
        name: this.#parts.nameFor(request.key),
        sessionTimeout: this.#parts.enforced ? sessionTimeout(request.ttl) : "0",
        fenced: request.fencing,
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
      if (elapsedSince(sentAt) > request.ttl * unprovenShare)
        await lock.refresh(request.ttl, statementDeadline);
      return lock;
    } catch (error) {
      this.end(toError(error));
      throw namedLockError(aboutKey(error, request.key));
    }
  }

  get idleName(): string {
    return this.#parts.idleName;
  }

  /** Resolves when no cancel is under way that could hit the next statement. */
  async cancelled(): Promise<void> {
    await this.#cancelling;
    this.#cancelling = undefined;
  }

  /** Its lock has been given back. */
  freed(): void {
    this.#rest();
  }

  /** Ends it, with whatever lock it has or may be granted. Does nothing the second time. */
  end(cause: Error): void {
    if (this.#state.is === "ended") return;
    if (this.#state.is === "idle") clearTimeout(this.#state.leaving);
    this.#state = { is: "ended" };
    this.#tellEnd(cause);
    debug("waiting session ended", () => ({ pid: this.#opened?.pid, cause: cause.message }));
    if (this.#opened !== undefined) this.#opened.session.destroy(cause);
    else if (this.#client !== undefined) destroySocket(this.#client);
    this.#parts.onEnd(this);
  }

  /** Ends one that nobody uses, politely. Never rejects, and takes seconds at most. */
  close(): Promise<void> {
    this.#ending ??= this.#close();
    return this.#ending;
  }

  #tellEnd(cause: Error | undefined): void {
    if (this.#opened !== undefined) this.#parts.events.sessionClosed("waiting", this.#opened.pid, cause);
  }

  async #close(): Promise<void> {
    if (this.#state.is !== "idle" || this.#opened === undefined) {
      this.end(new Error("the locker was closed"));
      return;
    }
    clearTimeout(this.#state.leaving);
    this.#state = { is: "ended" };
    this.#tellEnd(undefined);
    this.#parts.onEnd(this);
    await this.#opened.own.end();
  }

  async #open(ttl: number): Promise<Opened | Recovering> {
    const { pool, idleName, trustPooler, enforced, connectWithin, recovery } = this.#parts;
    const doing = "Connecting to wait for the lock";
    const own = await connectBeside(pool, { doing, milliseconds: connectWithin }, (client) => {
      this.#client = client;
    });
    const { session, client } = own;
    session.onGone((cause) => this.end(cause));
    const announced = trustPooler ? undefined : session.announcedPid;
    const belt = enforced ? tcpTimeouts(ttl) : undefined;
    const tag = randomBytes(6).toString("hex");
    const opening = openWaitingScript({ announcedPid: announced, name: idleName, tag, belt });
    try {
      const { said } = await session.runScript<OpenWaitingAnswer>(doing, opening, statementDeadline);
      assertTrusted(said, { pid: announced }, doing);
      const refusal = await recovery?.refuses(session);
      if (refusal !== undefined) {
        session.destroy(new Error("the server's lock table is too young"));
        return refusal;
      }
      this.#opened = { session, client, own, pid: said.pid, quiet: said.quiet, tag };
      if (this.#state.is !== "ended") this.#parts.events.sessionOpened("waiting", said.pid);
      debug("waiting session opened", () => ({ pid: said.pid }));
    } catch (error) {
      session.destroy(toError(error));
      throw error;
    }
    // close() may have come meanwhile, before there was a session to end.
    if (this.#state.is === "ended") session.destroy(new Error("the locker was closed"));
    return this.#opened;
  }

  async #wait(opened: Opened, wait: WaitInServer, request: LockRequest): Promise<Answer<WaitAnswer>> {
    let silent: Deadline | undefined;
    request.sent = true;
    request.cancel = () => {
      this.#cancelling ??= cancelStatement(opened.client);
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
      // Granted when its bound had passed, by the try that asks: the block took its settings back.
      if (!answer.said.granted || answer.said.name === wait.name) return answer;
    } catch (error) {
      // The bound, or a cancel, that the block could not catch. The lock may have been granted all the same.
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
    if (this.#state.is !== "busy" || this.#opened === undefined) return;
    const leaving = setTimeout(() => void this.close(), linger).unref();
    this.#state = { is: "idle", leaving };
    this.#opened.client.unref?.();
    this.#parts.onIdle(this);
  }
}

const doing = "Waiting for the lock";

interface Waited {
  readonly opened: Opened;
  readonly wait: WaitInServer;
  readonly token: string | null;
  readonly lapses: boolean;
}

/** A lock that was waited for in the server. Its session carries nothing else. */
class WaitedLock implements Grant {
  readonly fencingToken: bigint | undefined;
  /** If the server enforces the TTL, the lock is over when that passes. */
  readonly lapses: boolean;
  provenAt: Instant;
  readonly #owner: WaitingSession;
  readonly #waited: Waited;

  constructor(owner: WaitingSession, waited: Waited, provenAt: Instant) {
    this.#owner = owner;
    this.#waited = waited;
    this.provenAt = provenAt;
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
    this.#waited.opened.session.onGone((cause) => listener.gone(cause));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    const { opened, wait } = this.#waited;
    const known = { pid: opened.pid, name: wait.name, lapses: this.lapses };
    try {
      this.provenAt = await proveSession(opened.session, known, { ttl, deadline });
      return this.provenAt;
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
    this.#owner.freed();
  }
}
