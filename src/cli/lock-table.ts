import { plain } from "../contract/plain-text.ts";
import type { LockDescription, LockInfo } from "../index.ts";
import type { Colors } from "./colors.ts";
import { screenWidth, wrapped } from "./screen-width.ts";

/** The columns from left to right. The key comes last, because it may be long and have characters of any width. */
const columns = [
  "STATE",
  "MODE",
  "PID",
  "USER",
  "HOST",
  "SESSION",
  "ACTIVE",
  "NAMESPACE",
  "ID",
  "KEY",
] as const;

/** The locks as a table: each holder, and its waiters below. No key can move the cursor or shift a column. */
function lockTable(locks: readonly LockInfo[], { colors, now }: { colors: Colors; now: Date }): string {
  const rows = locks.map((lock) => ({ lock, cells: cellsOf(lock, now) }));
  const widths = columns.map((name, at) =>
    Math.max(name.length, ...rows.map(({ cells }) => cells[at]?.length ?? 0)),
  );
  const all = (cells: readonly string[]): string =>
    cells.map((cell, at) => (at === columns.length - 1 ? cell : cell.padEnd(widths[at] ?? 0))).join("  ");
  // On a narrow screen, the id and the key have a line of their own.
  const own = columns.indexOf("ID");
  const halves = (cells: readonly string[]): string =>
    `${all(cells.slice(0, own)).trimEnd()}\n    ${cells.slice(own).join("  ")}`;
  const needed = widths.slice(0, -1).reduce((sum, width) => sum + width + 2, 0);
  const line = needed > screenWidth() ? halves : all;
  return [
    colors.bold(line(columns)),
    ...rows.flatMap(({ lock, cells }) => [
      lock.state === "held" ? line(cells) : colors.yellow(line(cells)),
      ...(lock.description === undefined ? [] : [`    ${wrapped(descriptionLine(lock.description), 4)}`]),
    ]),
  ].join("\n");
}

/** The table, and below it what PostgreSQL hides and how to see it; or the sentence `empty` if there are no locks. */
export function lockListing(
  locks: readonly LockInfo[],
  { empty, ...how }: { empty: string; colors: Colors; now: Date },
): string {
  if (locks.length === 0) return empty;
  const notes = preparedIn(locks).map((gid) => wrapped(freedBy(gid), 0));
  const table = [lockTable(locks, how), ...notes].join("\n");
  if (!locks.some(({ isHidden }) => isHidden)) return table;
  return `${table}

"?" is what PostgreSQL hides from this role about the sessions of others.
To see it: GRANT pg_read_all_stats TO this role`;
}

/** The names of the prepared transactions that hold some of these locks. */
export function preparedIn(locks: readonly LockInfo[]): string[] {
  return [...new Set(locks.flatMap(({ preparedTransaction }) => preparedTransaction ?? []))];
}

/** A sentence that says how to free the lock of a prepared transaction. */
export function freedBy(gid: string): string {
  const literal = `'${plain(gid).replaceAll("'", "''")}'`;
  return `The prepared transaction ${literal} has no session to end: COMMIT PREPARED ${literal} or ROLLBACK PREPARED ${literal} frees what it holds`;
}

/**
 * The locks as they are printed as JSON. The id is a string, because JSON's numbers don't carry 64 bits. Unknown fields are null, so that
 * none is missing.
 */
export function forJson(locks: readonly LockInfo[]): object[] {
  const known = ([name, value]: [string, unknown]): [string, unknown] => [
    name,
    value === undefined ? null : value,
  ];
  return locks.map((lock) =>
    Object.fromEntries(Object.entries({ ...lock, id: lock.id.toString() }).map(known)),
  );
}

/** The description that a run gives its lock, in one line. */
export function descriptionLine({ name, detail }: LockDescription): string {
  return [name, detail].flatMap((text) => (text === undefined ? [] : plain(text))).join(": ");
}

function cellsOf(lock: LockInfo, now: Date): string[] {
  const unknown = lock.isHidden ? "?" : "-";
  return [
    lock.state === "held" ? "held" : `  waits ${ago(lock.waitingSince, now) ?? ""}`.trimEnd(),
    // Waiters in a process of this library are recorded in the same way for both modes.
    lock.state === "waiting" && lock.waitingSince === undefined ? "-" : lock.mode,
    lock.pid === undefined ? "-" : String(lock.pid),
    plain(lock.user ?? "?"),
    lock.host ?? unknown,
    ago(lock.sessionSince, now) ?? unknown,
    activity(lock, now) ?? unknown,
    lock.namespace === undefined ? "-" : String(lock.namespace),
    lock.id.toString(),
    keyOf(lock),
  ];
}

function keyOf({ key, claimedKey, keyStart, applicationName, preparedTransaction }: LockInfo): string {
  if (key !== undefined) return plain(key);
  if (claimedKey !== undefined) return `[${plain(claimedKey)}]`;
  if (keyStart !== undefined) return `${plain(keyStart)}…`;
  if (preparedTransaction !== undefined) return `[prepared ${plain(preparedTransaction)}]`;
  // The next best hint.
  return applicationName ? `[${plain(applicationName)}]` : "-";
}

function activity({ sessionState, activeAt }: LockInfo, now: Date): string | undefined {
  const since = ago(activeAt, now);
  if (since === undefined) return undefined;
  return sessionState === "idle" ? since : `${since} ${sessionState ?? ""}`.trimEnd();
}

/** The time since `then`, in its largest unit: `12s`, `3m`, `5h`, `2d`. */
export function ago(then: Date | undefined, now: Date): string | undefined {
  if (then === undefined) return undefined;
  const seconds = Math.max(0, Math.floor((now.getTime() - then.getTime()) / 1_000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
