import { userInfo } from "node:os";
import type pg from "pg";
import { hasCode } from "../../contract/caught-error.ts";
import type { Values } from "../command.ts";
import { usageFailure } from "../failure.ts";
import { readConnectionString } from "./connection-string.ts";
import type { Targets } from "./database-client.ts";
import { nameOf, parameters, type Setting, type Settings } from "./parameters.ts";
import { type Login, passwordFile } from "./password-file.ts";
import { serviceSettings } from "./service-file.ts";
import { targetsOf } from "./targets.ts";

/** A named database, with what a pool needs to connect to it. */
export interface NamedDatabase extends Targets {
  readonly config: pg.PoolConfig;
  readonly database: string;
  readonly user: string;
  /** What named it: `--url`, `DATABASE_URL`, or libpq's variables. */
  readonly namedBy: string;
}

/** Milliseconds for a connection: a little longer than the locker waits for one, whose error is the better one. */
export const usualTimeout = 5_500;

/**
 * The database named by `--url`, else by `DATABASE_URL`. What they leave open is filled in by libpq's rules: from the service, the
 * variables and the user's own files. `undefined` if nothing names a database.
 *
 * @throws {Failure} what names it is empty, can't be read, or asks for something that isn't supported here; quotes no secret
 */
export function namedDatabase(
  values: Values,
  env: NodeJS.ProcessEnv = process.env,
): NamedDatabase | undefined {
  const settings = allSettings(values, env);
  if (settings === undefined) return undefined;
  for (const [keyword, setting] of settings) {
    // It would end the value, and begin another setting, in what is sent to the server.
    if (setting.value.includes("\0")) throw usageFailure(`${nameOf(keyword, setting)} has the character NUL`);
    refuseUnlessKept(keyword, setting);
  }
  const [first, ...others] = targetsOf(settings);
  if (first === undefined) throw usageFailure("Nothing names a host");
  const targets = [first, ...others] as const;
  const user = settings.get("user")?.value ?? accountName(env);
  const database = settings.get("dbname")?.value ?? user;
  const value = (keyword: string): string | undefined => settings.get(keyword)?.value;
  const timeout = timeoutOf(settings.get("connect_timeout"));
  const findPassword = passwordFile(settings);
  const password = value("password");
  const isPrimary = /^(read-write|primary)$/.test(value("target_session_attrs") ?? "");
  const loginOf = ({ host: address, port }: { host: string; port: number }): Login => {
    const host = targets.find((each) => each.address === address && each.port === port)?.host ?? address;
    return { host, port, database, user };
  };
  return {
    targets,
    isPrimary,
    timeout,
    database,
    user,
    namedBy: namers(settings) || (values["url"] === undefined ? "DATABASE_URL" : "--url"),
    config: {
      user,
      database,
      // A function, because node-postgres would look in the environment if there were no password. Called if the server asks for one.
      password: password
        ? () => password
        : (login: { host: string; port: number }) => findPassword(loginOf(login)),
      ssl: first.ssl,
      sslnegotiation: value("sslnegotiation") ?? "postgres",
      connectionTimeoutMillis: timeout,
      enableChannelBinding: value("channel_binding") === "prefer",
      ...(value("options") !== undefined && { options: value("options") }),
      ...(value("application_name") !== undefined && { application_name: value("application_name") }),
    } as pg.PoolConfig,
  };
}

function allSettings(values: Values, env: NodeJS.ProcessEnv): Settings | undefined {
  const [from, text] =
    values["url"] === undefined ? ["DATABASE_URL", env["DATABASE_URL"]] : ["--url", String(values["url"])];
  const settings = text === undefined ? new Map<string, Setting>() : readConnectionString(text, from);
  const variables = new Map<string, Setting>();
  for (const [keyword, { variable, is }] of Object.entries(parameters)) {
    const value = variable === undefined ? undefined : env[variable];
    if (variable === undefined || value === undefined) continue;
    const isEmpty = keyword === "password" ? value === "" : value.trim() === "";
    if (!isEmpty) variables.set(keyword, { value, from: variable });
    // Beside a connection string, an empty or blank variable means libpq's default. Alone, it was meant to name a database.
    else if (text === undefined && is === "names" && !mayBeEmpty.has(keyword)) {
      throw usageFailure(`${variable} is set but empty: give it a value, or unset it`);
    }
  }
  const isNamed =
    text !== undefined || [...variables.keys()].some((keyword) => parameters[keyword]?.is === "names");
  if (!isNamed) return undefined;
  fillIn(settings, new Map([...variables].filter(([keyword]) => /^service(file)?$/.test(keyword))));
  fillIn(settings, serviceSettings(settings, env));
  fillIn(settings, variables);
  return settings;
}

/** Parameters that may be empty, because they don't say which server is meant. */
const mayBeEmpty: ReadonlySet<string> = new Set(["password", "options"]);

function fillIn(settings: Map<string, Setting>, more: Settings): void {
  for (const [keyword, setting] of more) if (!settings.has(keyword)) settings.set(keyword, setting);
}

function refuseUnlessKept(keyword: string, setting: Setting): void {
  const { only, because } = parameters[keyword] ?? {};
  if (only === undefined || only.includes(setting.value)) return;
  const why = because === undefined ? "" : `: ${because}`;
  const wants = only.length === 0 ? "unset it" : `expected ${choiceOf(only)}`;
  throw usageFailure(
    `${nameOf(keyword, setting)} asks for something that pg-locker can't do${why}; ${wants}`,
  );
}

/** The values as a phrase: `"a", "b" or "c"`. */
function choiceOf(values: readonly string[]): string {
  const quoted = values.map((each) => JSON.stringify(each));
  return [quoted.slice(0, -1).join(", "), ...quoted.slice(-1)].filter((each) => each !== "").join(" or ");
}

function timeoutOf(setting: Setting | undefined): number {
  if (setting === undefined) return usualTimeout;
  const seconds = Number(setting.value);
  if (!/^-?\d+$/.test(setting.value.trim())) {
    throw usageFailure(`${nameOf("connect_timeout", setting)} is not a number of seconds`);
  }
  // Means no limit in libpq.
  return seconds <= 0 ? usualTimeout : Math.min(seconds * 1_000, 2 ** 31 - 1);
}

/** The account's name, as in psql; in a container without an account, USER or LOGNAME. @throws {Failure} there is neither */
function accountName(env: NodeJS.ProcessEnv): string {
  try {
    return userInfo().username;
  } catch (error) {
    if (!hasCode(error, "ERR_SYSTEM_ERROR")) throw error;
    const name = env["USER"] || env["LOGNAME"];
    if (name) return name;
    throw usageFailure(
      `No database user is named, and the user id ${process.getuid?.()} has no account whose name could be used: set PGUSER`,
    );
  }
}

/**
 * What named the database, for people: the connection string, if it says anything; otherwise the variables that say where it is. Empty if
 * there is only a connection string without any part, such as `postgres://`.
 */
function namers(settings: Settings): string {
  const all = [...settings.values()].map(({ from }) => from);
  const string = all.find((from) => from === "--url" || from === "DATABASE_URL");
  if (string !== undefined) return string;
  const where = ["service", "host", "hostaddr", "port", "dbname"].flatMap(
    (keyword) => settings.get(keyword)?.from ?? [],
  );
  return [...new Set(where.length > 0 ? where : all)].join(", ");
}
