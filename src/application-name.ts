// NAMEDATALEN - 1: the server cuts a longer name, at a byte.
const longest = 63;

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
    const shown = /^[ -$&-~]$/.test(character) ? character : encodeURIComponent(character);
    if (name.length + shown.length > longest) break;
    name += shown;
  }
  return name;
}

/**
 * What such a name tells, if it is one: the namespace; and the key, or its beginning where it was cut, of a session that has
 * one lock.
 */
export function named(name: string): { namespace: number; key: string | undefined } | undefined {
  const [, digits, text] = /^pg-locker (-?\d+) (.*)$/s.exec(name) ?? [];
  if (digits === undefined || text === undefined) return undefined;
  const namespace = Number(digits);
  if (name === listenerName(namespace) || name === sharedName(namespace))
    return { namespace, key: undefined };
  try {
    return { namespace, key: decodeURIComponent(text) };
  } catch {
    // Not one of ours, whoever wrote it: ours are cut at whole characters.
    return { namespace, key: undefined };
  }
}

/** What pg_stat_activity shows of the session that hears of releases. */
export function listenerName(namespace: number): string {
  return `pg-locker ${namespace} (listens for those who wait)`;
}

/** What it shows of a session that carries many locks. */
export function sharedName(namespace: number): string {
  return `pg-locker ${namespace} (shared)`;
}
