import { readFileSync, statSync } from "node:fs";
import { usageFailure } from "../failure.ts";
import { homeFile, readNamedFile } from "./named-file.ts";
import { nameOf, type Settings } from "./parameters.ts";

/** Whom a password is for. */
export interface Login {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

// The package `pgpass` reads the file that its own process's PGPASSFILE names, whatever a connection string or a service says,
// and keeps silent about one that isn't there.

/**
 * Finds the password in the file that is named, else in `~/.pgpass`
 * (https://www.postgresql.org/docs/current/libpq-pgpass.html). It is looked for only when the server asks.
 *
 * @returns a function that throws, in a sentence, if there is no password
 * @throws {Failure} if the file that is named can't be used
 */
export function passwordFile(settings: Settings): (login: Login) => string {
  const named = settings.get("passfile");
  if (named !== undefined) {
    const name = nameOf("passfile", named);
    readNamedFile(named.value, name);
    const problem = problemOf(named.value);
    if (problem !== undefined) throw usageFailure(`${name} names the file ${named.value}, ${problem}`);
  }
  return (login) => {
    const path = named?.value ?? homeFile(".pgpass");
    const problem = path === undefined ? undefined : problemOf(path);
    if (path !== undefined && problem === undefined) {
      const password = passwordOf(readFileSync(path, "utf8"), login);
      if (password !== undefined) return password;
    }
    const where =
      path === undefined
        ? "PGPASSWORD, ~/.pgpass and the like"
        : `${path}${problem === undefined ? "" : `, ${problem}`}`;
    throw new Error(`the server asks for a password, and there is none for this user in ${where}`);
  };
}

/** Why a file is not used, as libpq doesn't use it either. */
function problemOf(path: string): string | undefined {
  const stat = statSync(path);
  if (!stat.isFile()) return "which is not a plain file";
  if (process.platform !== "win32" && (stat.mode & 0o077) !== 0) {
    return "which others may read or write: chmod 600 it";
  }
  return undefined;
}

/** Of lines `host:port:database:user:password`, the first that fits; a backslash keeps a colon, and `*` fits all. */
function passwordOf(text: string, login: Login): string | undefined {
  // libpq knows whoever is reached by the default socket as "localhost".
  const host = /^(\/var\/run\/postgresql|\/tmp)\/?$/.test(login.host)
    ? ["localhost", login.host]
    : [login.host];
  const wanted = [host, [String(login.port)], [login.database], [login.user]];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith("#")) continue;
    const fields = [...line.matchAll(/((?:[^:\\]|\\.|\\$)*)(?::|$)/gs)].map(([, field = ""]) =>
      field.replace(/\\(.)/gs, "$1"),
    );
    if (!wanted.every((values, at) => fields[at] === "*" || values.includes(fields[at] ?? ""))) continue;
    const password = fields[4];
    if (password) return password;
  }
  return undefined;
}
