import { usageFailure } from "../failure.ts";
import { spelling } from "../spelling.ts";
import { jdbcSettings } from "./jdbc-url.ts";
import { parameters, type Setting } from "./parameters.ts";
import { partsOf, settingsOf } from "./url-parts.ts";

const urlForm = "postgres://USER:PASSWORD@HOST:PORT/DATABASE";
const postgresScheme = /^(?:postgres|postgresql|postgis|pgsql|pg)(?:\+\w+)?$/i;
/** Other databases, by the scheme of their connection strings. */
const others: readonly (readonly [scheme: RegExp, name: string])[] = [
  [/^(mysql2?|mariadb)$/, "MySQL or MariaDB"],
  [/^(mssql|sqlserver)$/, "SQL Server"],
  [/^mongodb$/, "MongoDB"],
  [/^rediss?$/, "Redis"],
  [/^(sqlite3?|file|libsql)$/, "SQLite"],
  [/^oracle$/, "Oracle"],
  [/^https?$/, "a web server"],
];

/**
 * Reads a connection string: a URL (also SQLAlchemy's or JDBC's), libpq's `host=… dbname=…`, or the folder of a Unix socket. Spaces and
 * line ends around it are ignored, because files with a secret have them, and so are quotes around the whole.
 *
 * @param from what contains the string, for the sentences: `--url` or `DATABASE_URL`
 * @throws {Failure} it can't be read. The sentence quotes no part of it, because any part may belong to the password
 */
export function readConnectionString(given: string, from: string): Map<string, Setting> {
  const text = unwrapped(given);
  if (text === "")
    throw usageFailure(`${from} is empty: give it a connection string, ${urlForm}, or leave it out`);
  if (/[\r\n\0]/.test(text))
    throw usageFailure(`${from} has more than one line: expected one connection string`);
  const settings = new Map<string, Setting>();
  for (const [keyword, value] of pairsOf(text, from)) {
    // As in libpq, an empty value means the default.
    if (value === "") settings.delete(keyword);
    else settings.set(keyword, { value, from });
  }
  return settings;
}

function unwrapped(given: string): string {
  const text = given.replace(/^\uFEFF/, "").trim();
  return (/^(["'])((?:(?!\1).)*)\1$/s.exec(text)?.[2] ?? text).trim();
}

function pairsOf(text: string, from: string): [keyword: string, value: string][] {
  if (text.startsWith("/")) {
    const [host = "", dbname = ""] = text.split(/\s+/);
    return [
      ["host", host],
      ["dbname", dbname],
    ];
  }
  if (/^jdbc:postgresql:/i.test(text)) return jdbcSettings(text, from);
  const [, scheme, rest = ""] = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/is.exec(text) ?? [];
  if (scheme !== undefined && postgresScheme.test(scheme)) return fromUrl(rest, from);
  const named = /^(?:jdbc:)?([a-z0-9]+)(?:\+[a-z0-9]+)?:/i.exec(text)?.[1]?.toLowerCase() ?? "";
  const other = others.find(([pattern]) => pattern.test(named))?.[1];
  if (other !== undefined) {
    throw usageFailure(`${from} names ${other}, but locks are kept in PostgreSQL: expected ${urlForm}`);
  }
  if (/^\s*\w+\s*=/.test(text)) return fromKeywords(text, from);
  throw usageFailure(`Expected ${from} to be a connection string, ${urlForm} or "host=HOST dbname=DATABASE"`);
}

function fromUrl(rest: string, from: string): [string, string][] {
  const parts = partsOf(rest, from);
  const pairs = settingsOf(parts, parts.path, from);
  for (const [keyword, value] of parts.query) {
    if (keyword === "ssl") pairs.push(["sslmode", sslmodeOf(value)]);
    else if (Object.hasOwn(parameters, keyword)) pairs.push([keyword, value]);
    // Parameters of other programs, such as Prisma's `schema`, don't concern locks; a misspelled one is refused.
    else refuseSlip(keyword, from);
  }
  return pairs;
}

/** Reads node-postgres's `ssl`: `ssl=true` verifies the server's certificate and name. */
function sslmodeOf(value: string): string {
  if (value === "no-verify") return value;
  return /^(0|false|off|no)$/i.test(value) ? "disable" : "verify-full";
}

function refuseSlip(keyword: string, from: string): void {
  const { distance } = spelling();
  const meant = Object.keys(parameters).find(
    (each) => each.length > 4 && distance(each, keyword.toLowerCase()) <= 2,
  );
  if (meant !== undefined) throw usageFailure(`${from} has an unknown parameter that looks like ${meant}`);
}

/** Reads libpq's other form: `key = value` and `key = 'value'`, in which a backslash escapes the next character. */
function fromKeywords(text: string, from: string): [string, string][] {
  const pairs: [string, string][] = [];
  const pair =
    /\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'(?=\s|$)|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|(?=\s|$)))\s*/suy;
  while (pair.lastIndex < text.length) {
    const match = pair.exec(text);
    if (match === null) {
      throw usageFailure(
        `Expected ${from} to be pairs such as host=HOST dbname='DATABASE': put single quotes around a value with ` +
          "spaces, and a backslash before a quote or a backslash",
      );
    }
    const [, name = "", quoted, bare = ""] = match;
    const keyword = name.toLowerCase();
    if (keyword !== "ssl" && !Object.hasOwn(parameters, keyword)) {
      // It may be part of a password with spaces in it.
      refuseSlip(keyword, from);
      throw usageFailure(
        `${from} has a parameter that libpq doesn't know: put single quotes around a value with spaces`,
      );
    }
    const value = (quoted ?? bare).replace(/\\(.)/gsu, "$1");
    pairs.push(keyword === "ssl" ? ["sslmode", sslmodeOf(value)] : [keyword, value]);
  }
  return pairs;
}
