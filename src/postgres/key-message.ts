import { fnv, isInt32 } from "../contract/lock-id.ts";
import { keyShownAs } from "../contract/lock-key.ts";

/** A lock as a locker reports it: the text that shows its key, and its id. */
export interface KeyedLock {
  readonly key: string;
  readonly id: bigint;
}

/** What one notification of a locker says about one of its shared sessions. */
export interface KeyMessage {
  /** The session's backend. */
  readonly pid: number;
  readonly namespace: number;
  /** The locks that the session has, or is about to have. */
  readonly locks: readonly KeyedLock[];
  /** How many messages about this session come after this one. */
  readonly more: number;
}

/** The most bytes of a payload. PostgreSQL accepts at most 7999. */
const longest = 7_900;
/** The most messages about one session: half a megabyte, in a queue that all notifications of the server share. */
const most = 64;

/**
 * The messages about one session, as payloads in ASCII, whatever the encoding of the database. Each lock is written as its key, or, if its
 * id is not the key's `lockId`, as its key and its id. Locks that are too long for a message are left out, and so are those that don't fit
 * into the last message.
 */
export function keyMessages(
  pid: number,
  { namespace, locks }: { namespace: number; locks: Iterable<KeyedLock> },
): string[] {
  const room = longest - JSON.stringify({ pid, namespace, locks: [], more: most }).length;
  const pieces: string[][] = [[]];
  let left = room;
  for (const { key, id } of locks) {
    const text = id === goId(namespace, key) ? asciiJson(key) : `[${asciiJson(key)},"${id}"]`;
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
      `{"pid":${pid},"namespace":${namespace},"more":${pieces.length - 1 - at},"locks":[${piece.join(",")}]}`,
  );
}

/** Reads the payload of a notification. Never throws, because anybody may send one. @returns `undefined` if it is not such a message */
export function readKeyMessage(payload: string): KeyMessage | undefined {
  let said: Record<keyof KeyMessage, unknown> | null;
  try {
    said = JSON.parse(payload) as typeof said;
  } catch {
    return undefined;
  }
  const { pid, namespace, locks, more } = said ?? {};
  if (!isInt32(pid) || !isInt32(namespace) || !isInt32(more) || more < 0) return undefined;
  if (!Array.isArray(locks)) return undefined;
  const told = locks.map((lock: unknown) => keyedLock(namespace, lock)).filter((lock) => lock !== undefined);
  return told.length === locks.length ? { pid, namespace, locks: told, more } : undefined;
}

function keyedLock(namespace: number, said: unknown): KeyedLock | undefined {
  const [key, digits] = Array.isArray(said) ? (said as unknown[]) : [said];
  if (typeof key !== "string") return undefined;
  const made = goId(namespace, key);
  if (made === undefined || digits === undefined) return made === undefined ? undefined : { key, id: made };
  if (typeof digits !== "string" || !/^-?\d{1,19}$/.test(digits)) return undefined;
  const id = BigInt(digits);
  return BigInt.asIntN(64, id) === id ? { key, id } : undefined;
}

/** The id by `lockId`; `undefined` if the text shows no key. */
function goId(namespace: number, text: string): bigint | undefined {
  const key = keyShownAs(text);
  return key === undefined ? undefined : fnv(namespace, key);
}

function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
