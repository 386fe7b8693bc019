import { wrapped } from "./screen-width.ts";

// Which database this process has opened, for those who tell: a process opens one.

let described: (() => string) | undefined;

/** @param describe says it in a line without a secret: `app on db.example:5432, as ops (DATABASE_URL)` */
export function setAskedDatabase(describe: () => string): void {
  described = describe;
}

/** As it is now: of several servers, the one that was connected to. `undefined` if none was opened. */
export function askedDatabase(): string | undefined {
  return described?.();
}

/** The first line of what is shown of a database. */
export function databaseLine(): string {
  return wrapped(`Database ${askedDatabase() ?? "unknown"}`, "Database ".length);
}
