/** What one notification of a locker says about one of its shared sessions. */
export interface KeyMessage {
  /** The session's backend. */
  readonly pid: number;
  readonly namespace: number;
  /** The keys of locks that the session has, or is about to have. */
  readonly keys: readonly string[];
  /** How many messages about this session come after this one. */
  readonly more: number;
}

/** Bytes of a payload. PostgreSQL takes at most 7999. */
const longest = 7_900;
/** Messages about one session: about half a megabyte, in a queue that all notifications of the server share. */
const most = 64;

/**
 * The messages about one session, as payloads in ASCII, whatever the encoding of the database. A key that is too long for a message is
 * left out, and so are keys beyond the last message.
 */
export function keyMessages(
  pid: number,
  { namespace, keys }: { namespace: number; keys: Iterable<string> },
): string[] {
  const room = longest - JSON.stringify({ pid, namespace, keys: [], more: most }).length;
  const pieces: string[][] = [[]];
  let left = room;
  for (const key of keys) {
    const text = asciiJson(key);
    if (text.length > room) continue;
    if (text.length + 1 > left) {
      if (pieces.length === most) break;
      pieces.push([]);
      left = room;
    }
    pieces.at(-1)?.push(text);
    left -= text.length + 1;
  }
  return pieces.map(
    (piece, at) =>
      `{"pid":${pid},"namespace":${namespace},"more":${pieces.length - 1 - at},"keys":[${piece.join(",")}]}`,
  );
}

/** @returns `undefined` if it is no such message: anybody may send a notification */
export function readKeyMessage(payload: string): KeyMessage | undefined {
  try {
    const { pid, namespace, keys, more } = JSON.parse(payload) as Record<keyof KeyMessage, unknown>;
    const areKeys = Array.isArray(keys) && keys.every((key) => typeof key === "string" && key !== "");
    if (!areKeys || ![pid, namespace, more].every(Number.isSafeInteger)) return undefined;
    return { pid: Number(pid), namespace: Number(namespace), keys, more: Number(more) };
  } catch {
    return undefined;
  }
}

function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
