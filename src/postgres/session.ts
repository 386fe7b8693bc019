import { codeOf } from "../contract/caught-error.ts";
import { DatabaseError } from "../contract/errors.ts";
import { Deadline, type Instant, noAnswerWithin, now, soon } from "../runtime/clock.ts";
import { callHook } from "../runtime/user-hook.ts";
import { cancelStatement } from "./cancel.ts";
import {
  announcedBackend,
  type Client,
  destroySocket,
  listenForHalfClose,
  type Release,
  type Statement,
  unnamed,
} from "./driver.ts";
import { Exchange, type Reply, type Value } from "./exchange.ts";

/** Milliseconds that the server has for one statement of ours, except those that wait for a lock. */
export const statementDeadline = 5_000;

/** The deadline of a wait for a session: {@link statementDeadline} if it has no bound, because a silent server must not hang a call. */
export function boundedWait(wait: number): number {
  return Number.isFinite(wait) ? wait : statementDeadline;
}

export interface Answer<T> {
  readonly said: T;
  /** When the statement was sent. What it proves became true no earlier. */
  readonly sentAt: Instant;
}

//   reserved ──return()──▶ returned
//      │
//      └──destroy(), an error of the connection, its end──▶ gone
type State =
  | { readonly is: "reserved" }
  | { readonly is: "returned" }
  | { readonly is: "gone"; readonly cause: Error };

/**
 * One PostgreSQL connection that carries locks, from its reservation until it is returned or destroyed.
 *
 * It has an error listener all that time, because a checked-out client without one takes the process down
 * (https://github.com/brianc/node-postgres/issues/2439).
 */
export class Session {
  /** The backend that was announced at the start, if the driver tells it. */
  readonly announcedPid: number | undefined;
  /** The driver's client, for statements of a caller whose transaction this is. */
  readonly client: Client;
  readonly #release: Release;
  readonly #endListening: () => void;
  #state: State = { is: "reserved" };
  /** The statement under way; those in the queue start when it and those before them have ended. */
  #underWay: Turn | undefined;
  readonly #queue: Turn[] = [];
  readonly #lossListeners = new Set<(cause: Error) => void>();

  /** Call this in the same step in which the pool hands out the client. */
  constructor(client: Client, release: Release) {
    this.client = client;
    this.#release = release;
    this.announcedPid = announcedBackend(client);
    client.on("error", this.#onError);
    client.on("end", this.#onEnd);
    this.#endListening = listenForHalfClose(client, this.#onEnd);
  }

  /** Why the session has gone; `undefined` while it is not known to have. */
  get goneBecause(): Error | undefined {
    return this.#state.is === "gone" ? this.#state.cause : undefined;
  }

  /** Whether it is in a transaction, as far as the driver tells: node-postgres does from 8.17 on. */
  get inTransaction(): boolean {
    const status = this.client.getTransactionStatus?.();
    return status === "T" || status === "E";
  }

  /** Its previous user may have left the client in a transaction. @throws {DatabaseError} it did */
  assertOutsideTransaction(doing: string): void {
    if (this.inTransaction) throw clientInTransaction(doing);
  }

  /**
   * Calls `listener` once, and never within this call, if the session goes for any reason before it is returned.
   *
   * @returns a function that stops that, for what ends before the session does
   */
  onGone(listener: (cause: Error) => void): () => void {
    const gone = this.goneBecause;
    if (gone === undefined) this.#lossListeners.add(listener);
    else soon(() => listener(gone));
    return () => this.#lossListeners.delete(listener);
  }

  /**
   * Sends one statement that returns one value of JSON, after those before it. If there is no answer within `deadline` milliseconds, the
   * session is destroyed, because a late answer would be taken for the next statement's. The statement is also cancelled in the server,
   * which doesn't notice a closed socket while it waits for something else.
   *
   * After any other failure the session is as the statement left it, and the caller decides.
   *
   * @throws {DatabaseError} the server or the driver failed, the session has gone, or the deadline passed
   */
  run<T>(doing: string, statement: Statement, values: Value[], deadline: number): Promise<Answer<T>> {
    return this.#promise({ doing, what: statement, values, deadline }, jsonOf<T>);
  }

  /** Sends several statements in one message, as {@link run} sends one. The last of them returns one value of JSON. */
  runScript<T>(doing: string, text: string, deadline: number): Promise<Answer<T>> {
    return this.#promise({ doing, what: text, values: [], deadline }, jsonOf<T>);
  }

  /** Sends a statement that returns nothing but its command tag, such as `COMMIT`. @throws {DatabaseError} as {@link run} does */
  command(doing: string, statement: Statement, deadline: number): Promise<string> {
    return this.#promise({ doing, what: statement, values: [], deadline }, ({ tag }) => tag);
  }

  /** Sends several statements in one message, and returns the tag of the last. @throws {DatabaseError} as {@link run} does */
  commandScript(doing: string, text: string, deadline: number): Promise<string> {
    return this.#promise({ doing, what: text, values: [], deadline }, ({ tag }) => tag);
  }

  /** Sends one statement, as {@link run} does, and tells a receiver instead of returning a promise. */
  send(asked: Asked, receiver: Receiver): void {
    const turn = new Turn(this, asked, receiver);
    if (this.#underWay !== undefined) {
      this.#queue.push(turn);
      return;
    }
    this.#underWay = turn;
    turn.start();
  }

  /** Only a {@link Turn} calls it, as it ends. */
  startNext(): void {
    this.#underWay = this.#queue.shift();
    this.#underWay?.start();
  }

  #promise<T>(asked: Asked, read: (reply: Reply, sentAt: Instant) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.send(asked, {
        replied: (reply, sentAt) => {
          try {
            resolve(read(reply, sentAt));
          } catch (cause) {
            reject(new DatabaseError({ doing: asked.doing, cause }));
          }
        },
        failed: reject,
      });
    });
  }

  /** Gives the session back to the pool. Only for a session that holds no lock and has its own settings again. */
  return(): void {
    if (this.#state.is !== "reserved") return;
    this.#state = { is: "returned" };
    this.client.removeListener("error", this.#onError);
    this.client.removeListener("end", this.#onEnd);
    this.#endListening();
    callHook("pool's listener", () => this.#release());
  }

  /** Ends the session, and with it every lock that it may hold, known or unknown. Does nothing once it is returned or gone. */
  destroy(cause: Error): void {
    if (this.#state.is !== "reserved") return;
    this.#state = { is: "gone", cause };
    destroySocket(this.client);
    try {
      for (const listener of this.#lossListeners) listener(cause);
    } finally {
      // Last, because the pool's listeners are the user's code. The error listener stays: a dying connection may have more to say.
      callHook("pool's listener", () => this.#release(cause));
    }
  }

  readonly #onError = (error: Error): void => this.destroy(error);
  readonly #onEnd = (): void => this.destroy(new Error("the connection was closed"));
}

/** The error for a client that its previous user left in a transaction, which is not ours to use. */
export function clientInTransaction(doing: string): DatabaseError {
  return new DatabaseError({ doing, cause: new Error("the pool's client was in a transaction") });
}

/** What is sent: a statement, or several in one message, as a text. */
export interface Asked {
  /** What is being done, as an error is to say it: `Taking the lock`. */
  readonly doing: string;
  readonly what: Statement | string;
  readonly values: readonly Value[];
  /** Milliseconds. */
  readonly deadline: number;
}

/** Is told the outcome of a statement, once. */
export interface Receiver {
  replied(reply: Reply, sentAt: Instant): void;
  failed(error: DatabaseError): void;
}

//   queued ──▶ sent ──▶ told
//      └── its deadline ──▶ told: the session is destroyed; the answer, if it comes, is nobody's
class Turn extends Exchange {
  readonly #session: Session;
  readonly #asked: Asked;
  readonly #deadline: Deadline;
  #receiver: Receiver | undefined;
  #sentAt: Instant | undefined;
  #isPrepared = false;

  constructor(session: Session, asked: Asked, receiver: Receiver) {
    super();
    this.#session = session;
    this.#asked = asked;
    this.#receiver = receiver;
    this.#deadline = new Deadline(asked.deadline, this);
  }

  start(): void {
    const { client, goneBecause } = this.#session;
    if (goneBecause !== undefined) {
      this.failed(goneBecause);
      return;
    }
    const { what, values } = this.#asked;
    this.#isPrepared = typeof what !== "string" && what.name !== undefined && !unprepared.has(client);
    this.#sentAt = now();
    this.submitTo(client, typeof what === "string" || this.#isPrepared ? what : unnamed(what), values);
  }

  override replied(reply: Reply): void {
    const receiver = this.#end();
    if (this.#sentAt !== undefined) receiver?.replied(reply, this.#sentAt);
  }

  override failed(error: unknown): void {
    if (this.#isPrepared && isAboutPreparation(error)) {
      unprepared.add(this.#session.client);
      this.start();
      return;
    }
    this.#end()?.failed(new DatabaseError({ doing: this.#asked.doing, cause: error }));
  }

  /** Called when the deadline has passed. */
  late(): void {
    const { doing, deadline } = this.#asked;
    const cause = noAnswerWithin(deadline);
    const receiver = this.#receiver;
    this.#receiver = undefined;
    if (this.#session.goneBecause === undefined) void cancelStatement(this.#session.client);
    this.#session.destroy(cause);
    receiver?.failed(new DatabaseError({ doing, cause }));
  }

  /** Starts the next statement first: the server works on it while the receiver works on this one's answer. */
  #end(): Receiver | undefined {
    this.#deadline.clear();
    this.#session.startNext();
    const receiver = this.#receiver;
    this.#receiver = undefined;
    return receiver;
  }
}

/** Reads an answer of one value of JSON. @throws {SyntaxError} there is no value */
function jsonOf<T>({ value }: Reply, sentAt: Instant): Answer<T> {
  return { said: JSON.parse(String(value)) as T, sentAt };
}

/**
 * Clients whose prepared statements are not what the driver takes them for, because somebody ran DISCARD ALL or DEALLOCATE ALL, or a
 * pooler hands out one server session after another.
 */
const unprepared = new WeakSet<Client>();

/** The server could not even start: 26000, no such prepared statement; 42P05, there is one already. Nothing was done. */
function isAboutPreparation(error: unknown): boolean {
  const code = codeOf(error);
  return code === "26000" || code === "42P05";
}
