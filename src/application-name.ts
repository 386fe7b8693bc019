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
  for (const character of key) {
    const shown = /^[ -$&-~]$/.test(character) ? character : encodeURIComponent(character);
    if (name.length + shown.length > longest) break;
    name += shown;
  }
  return name;
}
