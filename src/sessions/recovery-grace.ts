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

/** Runs a statement in a transaction, the locker's own or a caller's. */
export type AskTransaction = <T>(statement: Statement, values: Array<string | null>) => Promise<T>;

/**
 * Lets no lock be granted until the server's lock table is older than the grace.
 *
 * A crash, a restart or a promotion removes every lock, but a holder that is cut off relies on its lock for the rest of its TTL. No TTL
 * is longer than the grace, so once the grace has passed, no such holder is left.
 *
 *     a session is opened ──its server's table is older than the grace──▶ may be granted locks, and is a witness
 *                         └─younger──▶ goes back; its caller is told how long it takes, or waits
 *
 * A session ends with its server's lock table, so it has to be checked only once. The age of the table is known from
 *
 * 1. the server's clock: see the evidence in `sql-recovery.ts`;
 * 2. if that says too young, the *witness*: a shared advisory lock of sessions that know that the table is older than the grace. The
 *    lock vanishes with the table, so a session that finds it knows the same;
 * 3. the locker itself, if it has known the table for a while, by its own monotonic clock.
 *
 * The wall clock of this machine isn't used: if it were set forward, it would shorten the grace.
 */
export class RecoveryGrace {
  /** The grace in whole milliseconds. */
  readonly grace: number;
  /** The age that the table must have, in milliseconds: the grace plus a margin for a holder whose clock runs slower. */
  readonly #oldEnough: number;
  readonly #trustPooler: boolean;
  #known: KnownTable | undefined;
  /** Clients that have been checked and whose backend stays the same. */
  readonly #admitted = new WeakSet<object>();
  readonly #witnesses = new WeakSet<Client>();

  /** `grace`: in milliseconds. */
  constructor(options: { grace: number; trustPooler: boolean }) {
    this.grace = Math.ceil(options.grace);
    this.#oldEnough = this.grace + Math.ceil(this.grace / 1_000) + 1;
    this.#trustPooler = options.trustPooler;
  }

  /**
   * Checks whether locks may be granted on a session. If so, the session is a witness until {@link leave}.
   *
   * @returns `undefined` if locks may be granted; otherwise the session is unchanged
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {DatabaseError} then the state of the session is unknown
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

  /** Makes a session a witness no longer, before it is returned to its pool. @throws {DatabaseError} it may still be a witness */
  async leave(session: Session): Promise<void> {
    if (!this.#witnesses.delete(session.client)) return;
    await session.run("Returning a session", dropWitness, [this.grace.toString()], statementDeadline);
  }

  /**
   * Checks whether a lock may be granted in a client's current transaction. Behind a pooler another session may serve each transaction,
   * so each is checked.
   *
   * @returns `undefined` if a lock may be granted; otherwise the transaction is unchanged
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

  /** The values for the statement, and when it is sent. */
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
      const cause = new Error(
        "the server does not say when it was started, or when its statistics were reset",
      );
      throw new DatabaseError({ doing, cause });
    }
    const { table, isOld } = seen;
    // If there is a witness, the table is older than the server's clock says.
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

/** A lock table that a locker has seen. Moments are by `performance.now()`. */
interface KnownTable {
  readonly table: string;
  /** The least age of the table in milliseconds at {@link knownAt}, when the answer came. */
  age: number;
  knownAt: number;
  /** When the last statement that saw the table was sent: the table existed after that. */
  seenAt: number;
}

function ageOf({ age, knownAt }: KnownTable): number {
  return age + performance.now() - knownAt;
}

/** Checks a TTL with `assertTtl`, and against a grace in milliseconds. */
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
