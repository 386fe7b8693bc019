import { formatDuration } from "../contract/duration.ts";
import { DatabaseError, InvalidTtlError } from "../contract/errors.ts";
import { announcedBackend, type Client, type Statement } from "../postgres/driver.ts";
import type { Recovering } from "../postgres/reservation.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  askLockTable,
  askLockTableInTransaction,
  dropWitness,
  type LockTableAnswer,
} from "../postgres/sql-recovery.ts";
import { assertTrusted } from "./trust.ts";

/** Asks in a transaction, whoever's it is. */
export type AskTransaction = <T>(statement: Statement, values: Array<string | null>) => Promise<T>;

/**
 * Nobody is granted a lock before the server's lock table is older than the grace.
 *
 * A crash, a restart or a promotion takes every lock away, while a holder who is cut off relies on its own for the rest of its TTL. No
 * TTL is longer than the grace, so when that has passed, none of them does any more.
 *
 *     a session is opened ──its server's table is older than the grace──▶ may be granted locks, and is a witness
 *                         └─younger──▶ goes back; its caller is told how long it takes, or waits
 *
 * A session never sees its table made anew, because it ends with it: once asked, a session is asked no more. Asked is
 *
 * 1. the age by the server's clock: see the evidence in `sql-recovery.ts`;
 * 2. if that is too young, the *witness*: a shared advisory lock of sessions that know the table to be older than the grace. It goes with
 *    the table, so whoever finds it knows the same;
 * 3. the locker itself, which has known the table for a while, by its own monotonic clock.
 *
 * The wall clock of this machine has no say: set forward, it would shorten the grace.
 */
export class RecoveryGrace {
  /** In whole milliseconds. */
  readonly grace: number;
  /** Milliseconds that the table must be old: the grace, and a margin for a holder whose clock goes slower. */
  readonly #oldEnough: number;
  readonly #trustPooler: boolean;
  #known: KnownTable | undefined;
  /** Whose backend stays the same, and was asked. */
  readonly #admitted = new WeakSet<object>();
  readonly #witnesses = new WeakSet<Client>();

  /** `grace`: milliseconds. */
  constructor(options: { grace: number; trustPooler: boolean }) {
    this.grace = Math.ceil(options.grace);
    this.#oldEnough = this.grace + Math.ceil(this.grace / 1_000) + 1;
    this.#trustPooler = options.trustPooler;
  }

  /**
   * Whether locks may be granted on a session, which is then a witness until {@link leave}.
   *
   * @returns `undefined` if so; else nothing of the session has changed
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {DatabaseError} then it is unknown what the session has
   */
  async refuses(session: Session): Promise<Recovering | undefined> {
    if (this.#admitted.has(session.client)) return undefined;
    const announced = this.#trustPooler ? undefined : session.announcedPid;
    const { values, sent } = this.#question(announced);
    const { said } = await session.run<LockTableAnswer>(doing, askLockTable, values, statementDeadline);
    assertTrusted(said, { pid: announced }, doing);
    const refusal = this.#judge(said, sent);
    if (refusal !== undefined) return refusal;
    this.#admitted.add(session.client);
    this.#witnesses.add(session.client);
    return undefined;
  }

  /** Before a session goes back to its pool. @throws {DatabaseError} it may still be a witness */
  async leave(session: Session): Promise<void> {
    if (!this.#witnesses.delete(session.client)) return;
    await session.run("Returning a session", dropWitness, [this.grace.toString()], statementDeadline);
  }

  /**
   * Whether a lock may be granted in the transaction that a client is in. Behind a pooler each transaction may be another session's, and
   * each is asked.
   *
   * @returns `undefined` if so; else nothing of the transaction has changed
   * @throws {StandbyError} @throws {DatabaseError} @throws what `ask` throws
   */
  async refusesTransaction(client: object, ask: AskTransaction): Promise<Recovering | undefined> {
    if (this.#admitted.has(client)) return undefined;
    const { values, sent } = this.#question(undefined);
    const said = await ask<LockTableAnswer>(askLockTableInTransaction, values);
    assertTrusted(said, { pid: undefined }, doing);
    const refusal = this.#judge(said, sent);
    if (refusal === undefined && said.pid === announcedBackend(client as Client)) this.#admitted.add(client);
    return refusal;
  }

  /** The values of a question, and when it was asked. */
  #question(announcedPid: number | undefined): { values: Array<string | null>; sent: number } {
    const sent = performance.now();
    const known = this.#known;
    const values = [
      this.#oldEnough.toString(),
      this.grace.toString(),
      announcedPid?.toString() ?? null,
      known?.table ?? null,
      known === undefined ? null : Math.floor(ageOf(known)).toString(),
      known === undefined ? null : Math.ceil(sent - known.seenAt).toString(),
    ];
    return { values, sent };
  }

  #judge({ seen }: LockTableAnswer, sent: number): Recovering | undefined {
    if (seen === null || seen.table === null) {
      const cause = new Error("the server does not tell when it was started, or had its statistics reset");
      throw new DatabaseError({ doing, cause });
    }
    const { table, isOld } = seen;
    // By the witness, it is older than the server's clock says.
    const age = isOld ? Math.max(seen.age, this.#oldEnough) : seen.age;
    const known = this.#known;
    if (known?.table !== table) {
      this.#known = { table, age, knownAt: performance.now(), seenAt: sent };
    } else {
      known.seenAt = Math.max(known.seenAt, sent);
      if (age > ageOf(known)) [known.age, known.knownAt] = [age, performance.now()];
    }
    return isOld ? undefined : { refused: "recovering", graceLeft: Math.max(this.#oldEnough - age, 1) };
  }
}

const doing = "Asking how old the server's lock table is";

/** A lock table that a locker has seen; moments by `performance.now()`. */
interface KnownTable {
  readonly table: string;
  /** Milliseconds that it was old, at least, at {@link knownAt}: when the answer came. */
  age: number;
  knownAt: number;
  /** When it was last asked for, and existed after that. */
  seenAt: number;
}

function ageOf({ age, knownAt }: KnownTable): number {
  return age + performance.now() - knownAt;
}

/** A TTL, checked by `assertTtl`, and against a grace in milliseconds. */
export function assertTtlWithin(
  grace: number,
  assertTtl: (got: unknown) => number,
): (got: unknown) => number {
  return (got) => {
    const ttl = assertTtl(got);
    if (ttl <= grace) return ttl;
    throw new InvalidTtlError(
      got,
      `at most the \`recoveryGrace\` of its locker, which is ${formatDuration(grace)}: its holder could otherwise rely on a lock that ` +
        "somebody else has been granted after a restart of the server",
    );
  };
}
