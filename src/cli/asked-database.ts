import { plain } from "../contract/plain-text.ts";
import { wrapped } from "./screen-width.ts";

// Remembers which database this process has opened (there is only one), for the messages that name it.

let described: (() => string) | undefined;

/** @param describe describes the database in a line without a secret: `app on db.example:5432, as ops (DATABASE_URL)` */
export function setAskedDatabase(describe: () => string): void {
  described = describe;
}

/** Describes the database as of now: if there are several servers, the one that was connected to. `undefined` if none was opened. */
export function askedDatabase(): string | undefined {
  const text = described?.();
  return text === undefined ? undefined : plain(text);
}

/** The first line of the output of a command that reads a database. */
export function databaseLine(): string {
  return wrapped(`Database ${askedDatabase() ?? "unknown"}`, "Database ".length);
}
