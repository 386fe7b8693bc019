import { quote } from "../contract/plain-text.ts";
import type { LockInfo } from "../index.ts";
import { databaseLine } from "./asked-database.ts";
import { colorsFor } from "./colors.ts";
import { type Command, databaseOptions, keyOptions, type Values } from "./command.ts";
import { connect } from "./database.ts";
import { secondsOf } from "./duration.ts";
import { exitStatus } from "./exit-status.ts";
import { usageFailure } from "./failure.ts";
import { KnownKeys } from "./known-keys.ts";
import { forJson, lockListing } from "./lock-table.ts";
import { namespaceOf } from "./namespace.ts";
import { print, printJson } from "./print.ts";
import { redraw } from "./redraw.ts";

/** The interval of `--watch`, in milliseconds. */
const period = { usual: 2_000, shortest: 100, longest: 2 ** 31 - 1 };

/** `pg-locker ls`: shows the holders and waiters of all locks. */
export const ls: Command = {
  name: "ls",
  synopsis: "[--namespace N] [--json] [--watch[=DURATION]] [--url URL]",
  summary: "list the locks, who holds them and who waits",
  keys: 0,
  options: {
    ...databaseOptions,
    namespace: keyOptions.namespace,
    json: { value: "none" },
    watch: { value: "optional" },
  },
  help: `Lists the advisory locks of a database, whoever took them, and below each lock
who waits for it. If a session doesn't show its keys, its holder is asked. If it
doesn't answer within half a second, the application's name is shown in
brackets; "pg-locker who KEY" finds the lock of a key anyway.

SESSION is how long the session has existed, ACTIVE how long ago it last spoke.
PostgreSQL does not record when a lock was taken.

  --namespace N       only locks that are known to be in this namespace
  --json              print a JSON array, which says more than the table
  --watch[=DURATION]  redraw until Ctrl-C: every 2s, or as often as you say
  --url URL           the database; default DATABASE_URL, or PGHOST and the like
  --local             your own PostgreSQL here, even if a database is named

Example:
  pg-locker ls --watch`,
  async run({ values }) {
    const isJson = values["json"] === true;
    const every = periodOf(values);
    const namespace = values["namespace"] === undefined ? undefined : namespaceOf(values);
    await using database = await connect(values);
    const known = new KnownKeys(database.pool);
    const look = async (options?: { signal: AbortSignal }): Promise<LockInfo[]> =>
      inNamespace(await known.look(options), namespace);
    if (every === undefined) {
      const locks = await look();
      if (isJson) await printJson(forJson(locks));
      else await print(`${databaseLine()}\n${screen(locks)}`);
      return exitStatus.ok;
    }
    return await redraw({
      head: () => `pg-locker ls, every ${every / 1_000} s, ${new Date().toLocaleTimeString()}; Ctrl-C ends`,
      body: async (signal) => {
        const locks = screen(await look({ signal }));
        return `${databaseLine()}\n${locks}`;
      },
      every,
    });
  },
};

/** How often a terminal is redrawn, in milliseconds; `undefined` if it isn't. */
function periodOf({ watch, json }: Values): number | undefined {
  if (watch === undefined) return undefined;
  if (json === true || !process.stdout.isTTY) {
    throw usageFailure("--watch redraws a terminal: it works neither with --json nor in a pipe");
  }
  const every = watch === true ? period.usual : secondsOf("--watch", String(watch));
  if (every >= period.shortest && every <= period.longest) return every;
  throw usageFailure(`Expected --watch to be from 100ms to 596h, got ${quote(watch)}`);
}

/** Keeps the locks of a namespace. A waiter may tell the namespace of a lock even if its holder doesn't. */
function inNamespace(locks: LockInfo[], namespace: number | undefined): LockInfo[] {
  if (namespace === undefined) return locks;
  const ids = new Set(locks.filter((lock) => lock.namespace === namespace).map(({ id }) => id));
  return locks.filter(({ id }) => ids.has(id));
}

function screen(locks: readonly LockInfo[]): string {
  return lockListing(locks, { empty: "No locks", colors: colorsFor(process.stdout), now: new Date() });
}
