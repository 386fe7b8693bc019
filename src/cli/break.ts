import { constants } from "node:os";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { plain, quote } from "../contract/plain-text.ts";
import { DatabaseError, endHolders, type LockInfo, listLocks } from "../index.ts";
import { databaseLine } from "./asked-database.ts";
import { colorsFor } from "./colors.ts";
import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { connect } from "./database.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure, usageFailure } from "./failure.ts";
import { lockIdKindOf, lockIdOf, lockIdOptions } from "./lock-ids.ts";
import { lockListing, preparedIn } from "./lock-table.ts";
import { namespaceOf } from "./namespace.ts";
import { usesWithOtherIds } from "./other-ids.ts";
import { shown } from "./plain.ts";
import { print } from "./print.ts";

/** Milliseconds in which a session that was told to end has surely done so. */
const dying = 5_000;

/** `pg-locker break KEY`: ends the session of whoever holds the lock of a key. */
export const breakLock: Command = {
  name: "break",
  synopsis: "KEY [--namespace N] [--lock-ids KIND] [--yes] [--url URL]",
  summary: "end the session that holds the lock of a key",
  keys: 1,
  options: { ...databaseOptions, ...keyOptions, ...lockIdOptions, yes: { value: "none" } },
  help: `Shows who holds the lock of KEY, asks, and ends the holder's session. That
frees the lock at once, and every other lock of the session. A holder that uses
pg-locker is told by its lock.signal, and "pg-locker run" stops its command. Any
other holder may go on as if it had the lock.

You need the holder's own role, or pg_signal_backend. Exits with 0 even if
nobody holds the lock, and with 1 if you answer no.

  --namespace N      the namespace of the key; default 0
  --lock-ids sha256  for lockers with the option "lockId: sha256LockId"
  --yes              don't ask; needed without a terminal
  --url URL          the database; default DATABASE_URL, or PGHOST and the like
  --local            your own PostgreSQL here, even if a database is named

Example:
  pg-locker break nightly`,
  async run({ values, positionals: [key = ""] }) {
    const namespace = namespaceOf(values);
    const id = lockIdOf({ key, namespace, lockIds: lockIdKindOf(values) });
    await using database = await connect(values);
    const { pool } = database;
    const all = await listLocks(pool);
    const holders = all.filter((lock) => lock.id === id && lock.state === "held");
    const listing = { empty: "Nobody holds it", colors: colorsFor(process.stdout), now: new Date() };
    await print(`${databaseLine()}\n${lockListing(holders, listing)}`);
    if (holders.length === 0) {
      const uses = await usesWithOtherIds(pool, { namespace, key, id });
      if (uses !== undefined) await print(`\n${uses.listing}`);
      return exitStatus.ok;
    }
    if (pidsOf(holders).length === 0) throw isPrepared(holders);
    if (values["yes"] !== true) {
      const answer = await ask(question(holders, all));
      if (answer === "interrupted") return exitStatus.signalled + constants.signals.SIGINT;
      if (answer === "no") {
        await print("Nothing was done");
        return exitStatus.no;
      }
    }
    const ended = await endSessions(pool, id, holders);
    const left = await untilGone(pool, id, ended);
    const isEnded = ({ pid }: LockInfo): boolean => pid !== undefined && ended.includes(pid);
    const remaining = pidsOf(left.filter(isEnded)).join(", ");
    if (remaining !== "") {
      throw new Failure(
        exitStatus.failed,
        `Session ${remaining} still has the lock, ${dying / 1_000} s after it was told to end: it does not react`,
      );
    }
    await print(ended.length === 0 ? "It was released in the meantime" : `Ended: ${ended.join(", ")}`);
    for (const pid of pidsOf(left)) await print(`Session ${pid} has it now`);
    if (preparedIn(left).length > 0) throw isPrepared(left);
    return exitStatus.ok;
  },
};

function question(holders: readonly LockInfo[], all: readonly LockInfo[]): string {
  const pids = pidsOf(holders);
  const others =
    all.filter(({ pid, state }) => pid !== undefined && pids.includes(pid) && state === "held").length -
    holders.filter(({ pid }) => pid !== undefined).length;
  const more = others === 0 ? "" : `, and with it ${others} other lock${others === 1 ? "" : "s"}`;
  return `End session ${pids.join(", ")}${more}?`;
}

function pidsOf(locks: readonly LockInfo[]): number[] {
  return [...new Set(locks.flatMap(({ pid }) => pid ?? []))];
}

/** Refuses to end a prepared transaction, because it has promised that it can be committed. */
function isPrepared(locks: readonly LockInfo[]): Failure {
  const gids = preparedIn(locks).map(quote).join(", ");
  return new Failure(
    exitStatus.failed,
    `The lock is held by the prepared transaction ${gids}, which break doesn't end`,
  );
}

/** Asks on standard error, which is the terminal even if standard output is not. @throws {Failure} nobody is there to be asked */
async function ask(what: string): Promise<"yes" | "no" | "interrupted"> {
  if (!process.stdin.isTTY) throw usageFailure(`${what} There is no terminal to ask on: use --yes`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const outcome = await new Promise<"yes" | "no" | "interrupted" | "none">((resolve) => {
    terminal.question(`${shown(what)} [y/N] `, (answer) =>
      resolve(/^y(es)?$/i.test(answer.trim()) ? "yes" : "no"),
    );
    // In raw mode, Ctrl-C sends no signal. After Ctrl-D, or if the terminal has gone, there is no answer.
    terminal.once("SIGINT", () => resolve("interrupted"));
    terminal.once("close", () => resolve("none"));
  });
  terminal.close();
  if (outcome === "yes" || outcome === "no") return outcome;
  process.stderr.write("\n");
  return outcome === "interrupted" ? outcome : "no";
}

async function endSessions(pool: pg.Pool, id: bigint, holders: readonly LockInfo[]): Promise<number[]> {
  try {
    return await endHolders(pool, { id, pids: pidsOf(holders) });
  } catch (error) {
    if (!(error instanceof DatabaseError) || error.sqlState !== "42501") throw error;
    const users = [...new Set(holders.map(({ user }) => plain(user ?? "?")))].join(", ");
    throw new Failure(
      exitStatus.failed,
      `This role may not end a session of ${users}: use that role, or a member of pg_signal_backend; only a superuser may end a superuser's session`,
      { cause: error },
    );
  }
}

/** Returns the holders of the lock once the ended sessions have gone, or once that has taken too long. */
async function untilGone(pool: pg.Pool, id: bigint, ended: readonly number[]): Promise<LockInfo[]> {
  const late = performance.now() + dying;
  for (;;) {
    const locks = (await listLocks(pool, { id })).filter(({ state }) => state === "held");
    if (!locks.some(({ pid }) => pid !== undefined && ended.includes(pid)) || performance.now() > late)
      return locks;
    await delay(50);
  }
}
