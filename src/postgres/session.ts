import { DatabaseError } from "../contract/errors.ts";
import { Deadline, type Instant, now } from "../runtime/clock.ts";
import { callHook } from "../runtime/user-hook.ts";
import { cancelStatement } from "./cancel.ts";
import {
  announcedBackend,
  type Client,
  destroySocket,
  type Release,
  type Statement,
  unnamed,
} from "./driver.ts";
import { exchange, exchangeScript, type Reply, type Value } from "./exchange.ts";

/** Milliseconds that the server has for one statement of ours, apart from those that wait for a lock. */
export const statementDeadline = 5_000;

/** The same for a wait that may have no bound: what is sent to a silent server must come to an end all the same. */
export function boundedWait(wait: number): number {
  return Number.isFinite(wait) ? wait : statementDeadline;
}

export interface Answer<T> {
  readonly said: T;
  /** When the statement was sent. What it proves was true no earlier. */
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
 * It has an error listener all that time: a checked-out client without one takes the process down
 * (https://github.com/brianc/node-postgres/issues/2439).
 */
export class Session {
  /** The backend announced at the start, where the driver tells it. */
  readonly announcedPid: number | undefined;
  /** The driver's own, for statements of a caller whose transaction this is. */
  readonly client: Client;
  readonly #release: Release;
  #state: State = { is: "reserved" };
  /** A statement is under way; those in the queue start when it and those before them have ended. */
  #busy = false;
  readonly #queue: Array<() => void> = [];
  readonly #lossListeners = new Set<(cause: Error) => void>();

  /** To be called in the very step in which the pool hands out the client. */
  constructor(client: Client, release: Release) {
    this.client = client;
    this.#release = release;
    this.announcedPid = announcedBackend(client);
    client.on("error", this.#onError);
    client.on("end", this.#onEnd);
  }

  /** Why the session has gone; `undefined` while it has not, as far as is known. */
  get goneBecause(): Error | undefined {
    return this.#state.is === "gone" ? this.#state.cause : undefined;
  }

  /** Whether it is in a transaction, as far as the driver tells: node-postgres does from 8.17 on. */
  get inTransaction(): boolean {
    const status = this.client.getTransactionStatus?.();
    return status === "T" || status === "E";
  }

  /** Whoever had the client before may have left it in one. @throws {DatabaseError} */
  assertOutsideTransaction(doing: string): void {
    if (this.inTransaction) throw clientInTransaction(doing);
  }

  /** Calls `listener` once, and never at once, if the session goes, by whatever cause, before it is returned. */
  onGone(listener: (cause: Error) => void): void {
    const gone = this.goneBecause;
    if (gone === undefined) this.#lossListeners.add(listener);
    else queueMicrotask(() => listener(gone));
  }

  /**
   * Sends one statement that answers one value of JSON, after those before it. Without an answer within `deadline`
   * milliseconds the session is destroyed, because a late answer would be taken for the next statement's; and the statement is
   * cancelled in the server, which doesn't notice a closed socket as long as it waits for something else.
   *
   * After any other failure the session is as the statement left it, and the caller decides.
   *
   * @throws {DatabaseError} the server or the driver failed, the session has gone, or the deadline passed
   */
  run<T>(doing: string, statement: Statement, values: Value[], deadline: number): Promise<Answer<T>> {
    const ask: Ask = (done) => this.#ask(statement, values, done);
    return this.#inTurn(doing, deadline, ask, jsonOf<T>);
  }

  /** Sends one statement, as {@link run} does, whose one value is a text that `read` understands. */
  runText<T>(
    doing: string,
    statement: Statement,
    values: Value[],
    deadline: number,
    read: (text: string) => T,
  ): Promise<Answer<T>> {
    const ask: Ask = (done) => this.#ask(statement, values, done);
    return this.#inTurn(doing, deadline, ask, ({ value }, sentAt) => ({ said: read(String(value)), sentAt }));
  }

  /** Sends several statements in one message, as {@link run} does one; the last of them returns one value of JSON. */
  runScript<T>(doing: string, text: string, deadline: number): Promise<Answer<T>> {
    const ask: Ask = (done) => this.#askScript(text, done);
    return this.#inTurn(doing, deadline, ask, jsonOf<T>);
  }

  /** Sends one that answers nothing but its command tag, such as `COMMIT`. @throws {DatabaseError} as {@link run} does */
  command(doing: string, statement: Statement, deadline: number): Promise<string> {
    return this.#inTurn(
      doing,
      deadline,
      (done) => this.#ask(statement, [], done),
      ({ tag }) => tag,
    );
  }

  /** Sends several statements in one message, and returns the tag of the last. @throws {DatabaseError} as {@link run} does */
  commandScript(doing: string, text: string, deadline: number): Promise<string> {
    return this.#inTurn(
      doing,
      deadline,
      (done) => this.#askScript(text, done),
      ({ tag }) => tag,
    );
  }

  #inTurn<T>(
    doing: string,
    milliseconds: number,
    ask: Ask,
    read: (reply: Reply, sentAt: Instant) => T,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const fail = (cause: unknown): void => reject(new DatabaseError({ doing, cause }));
      const deadline = new Deadline(milliseconds, () => {
        const cause = new Error(`no answer within ${Math.round(milliseconds)} ms`);
        if (this.#state.is === "reserved") void cancelStatement(this.client);
        this.destroy(cause);
        fail(cause);
      });
      const start = (): void => {
        this.#busy = true;
        ask((error, reply, sentAt) => {
          deadline.clear();
          this.#busy = false;
          this.#queue.shift()?.();
          if (reply === undefined || sentAt === undefined) {
            fail(error);
            return;
          }
          try {
            resolve(read(reply, sentAt));
          } catch (unreadable) {
            fail(unreadable);
          }
        });
      };
      if (this.#busy) this.#queue.push(start);
      else start();
    });
  }

  #ask(statement: Statement, values: Value[], done: Done): void {
    if (this.#state.is === "gone") {
      done(this.#state.cause);
      return;
    }
    const prepared = !unprepared.has(this.client);
    const sentAt = now();
    exchange(this.client, prepared ? statement : unnamed(statement), values, (error, reply) => {
      if (error && prepared && isAboutPreparation(error)) {
        unprepared.add(this.client);
        this.#ask(statement, values, done);
      } else {
        done(error, reply, sentAt);
      }
    });
  }

  #askScript(text: string, done: Done): void {
    if (this.#state.is === "gone") {
      done(this.#state.cause);
      return;
    }
    const sentAt = now();
    exchangeScript(this.client, text, (error, reply) => done(error ?? undefined, reply, sentAt));
  }

  /** Gives the session back for others to use. Only for one that holds no lock and has its own settings again. */
  return(): void {
    if (this.#state.is !== "reserved") return;
    this.#state = { is: "returned" };
    this.client.removeListener("error", this.#onError);
    this.client.removeListener("end", this.#onEnd);
    callHook("pool's listener", () => this.#release());
  }

  /** Ends the session, and with it every lock that it may hold, known or not. Does nothing once it is returned or gone. */
  destroy(cause: Error): void {
    if (this.#state.is !== "reserved") return;
    this.#state = { is: "gone", cause };
    destroySocket(this.client);
    // The error listener stays: a dying connection may have more to say.
    callHook("pool's listener", () => this.#release(cause));
    for (const listener of this.#lossListeners) listener(cause);
  }

  readonly #onError = (error: Error): void => this.destroy(error);
  readonly #onEnd = (): void => this.destroy(new Error("the connection was closed"));
}

/** The transaction of whoever had the client before is not ours to use. */
export function clientInTransaction(doing: string): DatabaseError {
  return new DatabaseError({ doing, cause: new Error("the pool's client was in a transaction") });
}

/** Sends something, and is told once what came of it. */
type Ask = (done: Done) => void;
type Done = (error: unknown, reply?: Reply, sentAt?: Instant) => void;

/** What a statement answered with one value of JSON; an answer without a value is none. */
function jsonOf<T>({ value }: Reply, sentAt: Instant): Answer<T> {
  return { said: JSON.parse(String(value)) as T, sentAt };
}

/**
 * Clients whose prepared statements are not what the driver believes: somebody ran DISCARD ALL or DEALLOCATE ALL, or a
 * pooler hands out one server session after another.
 */
const unprepared = new WeakSet<Client>();

/** The server could not even start: 26000, no such prepared statement; 42P05, there is one already. Nothing was done. */
function isAboutPreparation(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "26000" || code === "42P05";
}
