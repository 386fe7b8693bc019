import { keyText } from "../contract/lock-id.ts";
import { keyBytes } from "../contract/lock-key.ts";

// NAMEDATALEN - 1: the server cuts a longer name, at a byte.
const longest = 63;
/** The most that a character takes, percent-encoded. */
const widest = 12;

/**
 * What pg_stat_activity shows of a holder: `pg-locker`, the namespace and the key, which every role may read.
 *
 * Characters that are not printable ASCII are percent-encoded, as the server would spoil them (`?` up to 15, `\xc3` from
 * 16 on), and so is `%`; the key is cut at a whole character.
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

/** What the name of a session tells. */
export interface Named {
  readonly namespace: number;
  /** The key of a session with one lock; only its beginning if it was cut. */
  readonly key: string | undefined;
  /** Whether the name is so long that the key may have been cut. */
  readonly mayBeCut: boolean;
}

/** What such a name tells, if it is one. */
export function named(name: string): Named | undefined {
  const [, digits, text] = /^pg-locker (-?\d+) (.*)$/s.exec(name) ?? [];
  if (digits === undefined || text === undefined) return undefined;
  const namespace = Number(digits);
  if ([waitingName, sharedName, fencingName].some((nameOf) => name === nameOf(namespace)))
    return { namespace, key: undefined, mayBeCut: false };
  const key = percentDecoded(text);
  // Not one of ours, whoever wrote it.
  if (key === undefined) return { namespace, key, mayBeCut: false };
  return { namespace, key, mayBeCut: name.length > longest - widest };
}

function percentEncoded(character: string): string {
  return [...keyBytes(character)]
    .map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)
    .join("");
}

/** The text of a key; `undefined` if there is a `%` that encodes nothing. */
function percentDecoded(text: string): string | undefined {
  const parts = text.split(/(%[0-9A-Fa-f]{2})/);
  if (parts.some((part, at) => at % 2 === 0 && part.includes("%"))) return undefined;
  const bytes = parts.map((part, at) =>
    at % 2 === 0 ? Buffer.from(part, "utf8") : Buffer.of(Number.parseInt(part.slice(1), 16)),
  );
  const whole = Buffer.concat(bytes);
  return whole.length === 0 ? undefined : keyText(whole);
}

/** What pg_stat_activity shows of a session that is kept for whoever waits next. */
export function waitingName(namespace: number): string {
  return `pg-locker ${namespace} (waits)`;
}

/** What it shows of a session that draws fencing tokens. */
export function fencingName(namespace: number): string {
  return `pg-locker ${namespace} (draws tokens)`;
}

/** Whether a session carries many locks, by its name. */
export function isSharedName(name: string): boolean {
  const namespace = named(name)?.namespace;
  return namespace !== undefined && name === sharedName(namespace);
}

/** What it shows of a session that carries many locks. */
export function sharedName(namespace: number): string {
  return `pg-locker ${namespace} (shared)`;
}
