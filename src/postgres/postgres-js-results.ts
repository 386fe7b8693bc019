import type { Readable, Writable } from "node:stream";
import type { Result } from "./driver.ts";
import type { EngineResult, EngineRows } from "./postgres-js.ts";

/** What `query` of a transaction's client returns to the application. */
export interface NamedRows {
  readonly rows: unknown[];
  readonly rowCount: number | null;
  readonly command: string;
}

/**
 * Reads the result of the last of several statements.
 *
 * @throws {Error} there is none; or it was a COPY, which is ended
 */
export function lastOf<T>(result: EngineResult, read: (rows: EngineRows) => T): T {
  endCopy(result);
  const last = "command" in result ? result : result.at(-1);
  if (last === undefined) throw new Error("the server answered nothing");
  return read(last);
}

/** The result of a statement of the locker's, with each value as the server wrote it. */
export function rawRows(rows: EngineRows): Result {
  const texts = (row: unknown): Array<string | null> =>
    (row as ReadonlyArray<Buffer | null>).map((value) => value?.toString() ?? null);
  return { rows: Array.from(rows, texts), command: rows.command ?? "" };
}

/** The result of a statement of the application's. */
export function namedRows(rows: EngineRows): NamedRows {
  return { rows: Array.from(rows), rowCount: rows.count, command: rows.command ?? "" };
}

/** Turns `undefined` into null, as node-postgres does. */
export function asParameter(value: unknown): unknown {
  return value === undefined ? null : value;
}

/**
 * Refuses a COPY from or to the client. postgres.js returns a stream for it, which nobody would read or listen to: its error, when the
 * connection is closed, would end the process.
 *
 * @throws {Error} it is a COPY
 */
function endCopy(result: EngineResult | Readable | Writable): void {
  if (!("on" in result)) return;
  const refused = new Error("COPY from or to the client is not supported in `withTransaction`");
  result.on("error", () => {});
  // Data that is not read would hold back the server's other answers.
  if ("read" in result) result.resume();
  // The server fails the COPY, and with it the transaction.
  else result.destroy(refused);
  throw refused;
}
