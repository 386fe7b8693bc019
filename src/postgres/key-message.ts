/** What a locker tells of one of its shared sessions, in one notification. */
export interface KeyMessage {
  /** The backend of the session. */
  readonly pid: number;
  readonly namespace: number;
  /** Keys of locks that the session has, or is about to have. */
  readonly keys: readonly string[];
  /** How many messages about this session come after this one. */
  readonly more: number;
}

/** Bytes of a payload, of which PostgreSQL takes 7999. */
const longest = 7_900;
/** Messages about one session: some half a megabyte, of a queue that all of the server's notifications share. */
const most = 64;

/**
 * The messages about one session, as payloads: of ASCII, whatever the encoding of the database. A key that is too long for one is left
 * out, and so is what is beyond the most.
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

/** @returns `undefined` for what is no such message: anybody may write one */
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
