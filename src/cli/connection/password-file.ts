import { readFileSync, statSync } from "node:fs";
import { usageFailure } from "../failure.ts";
import { homeFile, readNamedFile } from "./named-file.ts";
import { nameOf, type Settings } from "./parameters.ts";

/** The login that a password is for. */
export interface Login {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

// The package `pgpass` only reads the file in its own process's PGPASSFILE, whatever a connection string or a service says, and doesn't
// report a missing file.

/**
 * Finds the password in the named file, or in `~/.pgpass` if none is named
 * (https://www.postgresql.org/docs/current/libpq-pgpass.html). The file is searched only when the server asks for a password.
 *
 * @returns a function that returns the password, or throws an error that says that there is none
 * @throws {Failure} the named file can't be used
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

/** Why a file can't be used, by libpq's rules. */
function problemOf(path: string): string | undefined {
  const stat = statSync(path);
  if (!stat.isFile()) return "which is not a plain file";
  if (process.platform !== "win32" && (stat.mode & 0o077) !== 0) {
    return "which others may read or write: chmod 600 it";
  }
  return undefined;
}

/** The password in the first matching line `host:port:database:user:password`. A backslash escapes a colon, and `*` matches anything. */
function passwordOf(text: string, login: Login): string | undefined {
  // In a password file, the server on the default socket is also called "localhost".
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
