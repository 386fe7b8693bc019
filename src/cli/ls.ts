import { setTimeout as delay } from "node:timers/promises";
import { type LockInfo, listLocks } from "../index.ts";
import { colorsFor } from "./colors.ts";
import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { connect } from "./database.ts";
import { secondsOf } from "./duration.ts";
import { exitStatus } from "./exit-status.ts";
import { usageFailure } from "./failure.ts";
import { asJson, lockTable, whatIsHidden } from "./lock-table.ts";
import { namespaceOf } from "./namespace.ts";

/** `pg-locker ls`: who holds what, and who waits for it. */
export const ls: Command = {
  name: "ls",
  synopsis: "[--namespace N] [--json] [--watch[=DURATION]] [--url URL]",
  summary: "list the locks, who holds them and who waits",
  keys: 0,
  options: {
    ...databaseOptions,
    ...keyOptions,
    json: { value: "none" },
    watch: { value: "optional" },
  },
  help: `Lists the advisory locks of the database, and below each who waits for it: those
of pg-locker, of the Go package, and of anybody else. KEY is shown where the
session tells it; of sessions that many locks share, only the namespace.
PostgreSQL does not know when a lock was granted: SESSION is the age of its
session, and ACTIVE how long ago that last spoke.

  --namespace N        only those of this namespace
  --json               as JSON, an array
  --watch[=DURATION]   again and again, every 2s or DURATION, until Ctrl-C
  --url URL            the database, default DATABASE_URL, else PGHOST etc.

Example:
  pg-locker ls --watch`,
  async run({ values }) {
    const { watch } = values;
    if (watch !== undefined && (values["json"] === true || !process.stdout.isTTY)) {
      throw usageFailure("--watch redraws a terminal: it goes neither with --json nor into a pipe");
    }
    const namespace = values["namespace"] === undefined ? undefined : namespaceOf(values);
    await using database = await connect(values);
    const look = async (): Promise<LockInfo[]> => {
      const locks = await listLocks(database.pool);
      return namespace === undefined ? locks : locks.filter((lock) => lock.namespace === namespace);
    };
    if (watch !== undefined)
      return await watchLocks(look, watch === true ? 2_000 : secondsOf("--watch", String(watch)));
    const locks = await look();
    console.log(values["json"] === true ? asJson(locks) : screen(locks));
    return exitStatus.ok;
  },
};

function screen(locks: readonly LockInfo[]): string {
  if (locks.length === 0) return "No locks";
  const hidden = whatIsHidden(locks);
  const table = lockTable(locks, { colors: colorsFor(process.stdout), now: new Date() });
  return hidden === undefined ? table : `${table}\n\n${hidden}`;
}

/** On the terminal's other screen, which leaves no trace on the one that it came from. */
async function watchLocks(look: () => Promise<LockInfo[]>, every: number): Promise<number> {
  const ended = new AbortController();
  let signal = 0;
  const numbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 };
  const end = (name: keyof typeof numbers) => () => {
    signal = numbers[name];
    ended.abort();
  };
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, end(name));
  process.stdout.write("\x1b[?1049h\x1b[?25l");
  try {
    while (!ended.signal.aborted) {
      // A database that is away for a moment is no reason to go.
      const shown = await look().then(screen, (error: Error) => error.message);
      const head = `pg-locker ls, every ${every / 1_000} s, ${new Date().toLocaleTimeString()}; Ctrl-C ends`;
      process.stdout.write(`\x1b[H\x1b[2J${cutToScreen(`${head}\n\n${shown}`)}`);
      await delay(every, undefined, { signal: ended.signal }).catch(() => {});
    }
  } finally {
    process.stdout.write("\x1b[?25h\x1b[?1049l");
  }
  return exitStatus.signalled + signal;
}

/** As many lines as there is room for; a longer one goes on in the next. */
function cutToScreen(text: string): string {
  const { rows } = process.stdout;
  const lines = text.split("\n");
  if (lines.length < rows) return text;
  const left = lines.length - (rows - 2);
  return [...lines.slice(0, rows - 2), `… and ${left} more lines`].join("\n");
}
