import { usageFailure } from "../failure.ts";

/** The parts of a database's URL, decoded except for the path. */
export interface UrlParts {
  readonly user: string;
  readonly password: string;
  readonly hosts: readonly { readonly host: string; readonly port: string }[];
  readonly path: string;
  readonly query: readonly (readonly [name: string, value: string])[];
}

const encoding = 'in a user name or a password, "@" is written %40, "/" %2F, "?" %3F, "#" %23 and "%" %25';

/**
 * Splits a URL after its `//`. `URL` can't do it, because it doesn't allow several hosts. A password may contain a raw `@`, because no host
 * does. A raw `/`, `?` or `#` would end the host, so another host than the intended one might be asked: that is refused.
 *
 * @throws {Failure} it can't be read; quotes no part of it
 */
export function partsOf(text: string, from: string): UrlParts {
  const end = text.search(/[/?#]/);
  const authority = end === -1 ? text : text.slice(0, end);
  const behind = end === -1 ? "" : text.slice(end);
  const [, path = "", search = ""] = /^\/?([^?]*)(?:\?(.*))?$/s.exec(behind) ?? [];
  const at = authority.lastIndexOf("@");
  if (
    /[@#]/.test(path) ||
    behind.startsWith("#") ||
    (at === -1 && search.includes("@") && !isQuery(search))
  ) {
    throw usageFailure(`${from} is ambiguous: ${encoding}`);
  }
  const [user = "", ...password] = at === -1 ? [] : authority.slice(0, at).split(":");
  return {
    user: decoded(user, from),
    password: decoded(password.join(":"), from),
    hosts: hostsOf(authority.slice(at + 1), from),
    path,
    query: queryOf(search, from),
  };
}

/** libpq's settings for all parts except the query. `path`: the database's name as in the URL. @throws {Failure} it can't be decoded */
export function settingsOf(
  { user, password, hosts }: UrlParts,
  path: string,
  from: string,
): [keyword: string, value: string][] {
  return [
    ["user", user],
    ["password", password],
    ["host", hosts.map(({ host }) => host).join(",")],
    ["port", hosts.some(({ port }) => port !== "") ? hosts.map(({ port }) => port).join(",") : ""],
    ["dbname", decoded(path, from)],
  ];
}

/** @throws {Failure} it can't be decoded */
function decoded(text: string, from: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw usageFailure(`${from} has a "%" that isn't the beginning of an encoded character: ${encoding}`);
  }
}

function hostsOf(text: string, from: string): { host: string; port: string }[] {
  if (text === "") return [];
  return text.split(",").map((each) => {
    const [, host, port = ""] = /^(\[[^\]]*\]|[^:[\]]*)(?::(\d*))?$/.exec(each) ?? [];
    if (host === undefined || /\s/.test(host)) {
      throw usageFailure(
        `${from} has no host and port that can be read, such as db.example:5432: ${encoding}`,
      );
    }
    return { host: decoded(host.replace(/^\[(.*)\]$/, "$1"), from), port };
  });
}

function isQuery(search: string): boolean {
  return search.split("&").every((item) => /^\w+=/.test(item));
}

function queryOf(search: string, from: string): [string, string][] {
  if (search === "") return [];
  return search.split("&").map((item) => {
    const [, name, value] = /^([\w.-]+)=(.*)$/s.exec(item) ?? [];
    if (name === undefined || value === undefined) {
      throw usageFailure(`${from} has something after its "?" that isn't NAME=VALUE: ${encoding}`);
    }
    return [name, decoded(value, from)];
  });
}
