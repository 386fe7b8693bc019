import { isInt32, keyText } from "../contract/lock-id.ts";
import { keyBytes } from "../contract/lock-key.ts";

// NAMEDATALEN - 1: the server cuts a longer name at this byte.
const longest = 63;
/** The most bytes that one percent-encoded character takes. */
const widest = 12;

/**
 * The `application_name` of a holder's session: `pg-locker`, the namespace and the key. Every role may read it in `pg_stat_activity`.
 *
 * `%` and all characters that are not printable ASCII are percent-encoded, because the server would replace the latter (with `?` up to
 * PostgreSQL 15, with `\xc3` from 16 on). A long key is cut after a whole character.
 */
export function applicationName(namespace: number, key: string): string {
  let name = `pg-locker ${namespace} `;
  if (/^[ -$&-~]*$/.test(key)) return (name + key).slice(0, longest);
  for (const character of key) {
    const shown = /^[ -$&-~]$/.test(character) ? character : percentEncoded(character);
    if (name.length + shown.length > longest) break;
    name += shown;
  }
  return name;
}

/** What the `application_name` of one of our sessions says. */
export interface Named {
  readonly namespace: number;
  /** The key, for a session with one lock; only its beginning if it was cut. */
  readonly key: string | undefined;
  /** Whether the name is so long that the key may have been cut. */
  readonly mayBeCut: boolean;
}

/** Parses an `application_name`; `undefined` if it is not one of ours. */
export function named(name: string): Named | undefined {
  const [, digits, text] = /^pg-locker (-?\d+) (.*)$/s.exec(name) ?? [];
  if (digits === undefined || text === undefined) return undefined;
  const namespace = Number(digits);
  if (!isInt32(namespace) || String(namespace) !== digits) return undefined;
  if ([waitingName, sharedName, fencingName].some((nameOf) => name === nameOf(namespace)))
    return { namespace, key: undefined, mayBeCut: false };
  const key = percentDecoded(text);
  // The key can't be decoded, so something else made the name.
  if (key === undefined) return { namespace, key, mayBeCut: false };
  return { namespace, key, mayBeCut: name.length > longest - widest };
}

function percentEncoded(character: string): string {
  return [...keyBytes(character)]
    .map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)
    .join("");
}

/** Decodes a percent-encoded key; `undefined` if a `%` encodes nothing. */
function percentDecoded(text: string): string | undefined {
  const parts = text.split(/(%[0-9A-Fa-f]{2})/);
  if (parts.some((part, at) => at % 2 === 0 && part.includes("%"))) return undefined;
  const bytes = parts.map((part, at) =>
    at % 2 === 0 ? Buffer.from(part, "utf8") : Buffer.of(Number.parseInt(part.slice(1), 16)),
  );
  const whole = Buffer.concat(bytes);
  return whole.length === 0 ? undefined : keyText(whole);
}

/** The `application_name` of a waiting session that is idle, kept for the next caller that waits. */
export function waitingName(namespace: number): string {
  return `pg-locker ${namespace} (waits)`;
}

/** The `application_name` of a session that draws fencing tokens. */
export function fencingName(namespace: number): string {
  return `pg-locker ${namespace} (draws tokens)`;
}

/** Whether an `application_name` is that of a session that carries many locks. */
export function isSharedName(name: string): boolean {
  const namespace = named(name)?.namespace;
  return namespace !== undefined && name === sharedName(namespace);
}

/** The `application_name` of a session that carries many locks. */
export function sharedName(namespace: number): string {
  return `pg-locker ${namespace} (shared)`;
}
