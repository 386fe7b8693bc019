import type { Readable, Writable } from "node:stream";
import type { Result } from "./driver.ts";
import type { EngineResult, EngineRows } from "./postgres-js.ts";

/** What `query` returns to a function that has the client of a transaction. */
export interface NamedRows {
  readonly rows: unknown[];
  readonly rowCount: number | null;
  readonly command: string;
}

/**
 * What the last of several statements returned.
 *
 * @throws {Error} nothing; or it was a COPY, which is ended
 */
export function lastOf<T>(result: EngineResult, read: (rows: EngineRows) => T): T {
  endCopy(result);
  const last = "command" in result ? result : result.at(-1);
  if (last === undefined) throw new Error("the server answered nothing");
  return read(last);
}

/** As the server wrote it, for a statement of the locker's. */
export function rawRows(rows: EngineRows): Result {
  const texts = (row: unknown): Array<string | null> =>
    (row as ReadonlyArray<Buffer | null>).map((value) => value?.toString() ?? null);
  return { rows: Array.from(rows, texts), command: rows.command ?? "" };
}

/** For a function that has the client of a transaction. */
export function namedRows(rows: EngineRows): NamedRows {
  return { rows: Array.from(rows), rowCount: rows.count, command: rows.command ?? "" };
}

/** As node-postgres has it, an `undefined` is a null. */
export function asParameter(value: unknown): unknown {
  return value === undefined ? null : value;
}

/**
 * For a COPY from or to the client, postgres.js gives a stream. Nobody has it, and its error, when the connection is closed, would end the
 * process.
 *
 * @throws {Error} it is one
 */
function endCopy(result: EngineResult | Readable | Writable): void {
  if (!("on" in result)) return;
  const refused = new Error("COPY to or from the client is not for the client of a transaction");
  result.on("error", () => {});
  // What is not read would keep the server's other answers back.
  if ("read" in result) result.resume();
  // The server fails the COPY, and with it the transaction.
  else result.destroy(refused);
  throw refused;
}
