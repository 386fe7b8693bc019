import { setImmediate as nextTurn } from "node:timers/promises";
import type { LockKey } from "../../../src/index.ts";
import { Broken, handle, type Mutant, mutant, mutantLock, type Sound } from "./mutant.ts";

const strings = "the bytes of a string are the same key as the string";
const others =
  "other bytes are keys of their own, shown with a lone surrogate for each byte that isn't UTF-8";

/** Changes what a key of bytes is. */
const ofBytes = (
  does: string,
  caughtBy: string,
  change: (bytes: Uint8Array, sound: Sound) => ReturnType<Sound["acquire"]>,
): Mutant =>
  mutant(does, caughtBy, (sound) => ({
    acquire: (key, options) =>
      key instanceof Uint8Array && options === undefined ? change(key, sound) : sound.acquire(key, options),
  }));

/** Mutants for keys. */
export const keyMutants: readonly Mutant[] = [
  mutantLock("a key has another id each time", "a key has the same id each time", () => ({
    id: BigInt(Math.floor(Math.random() * 1e9)),
  })),
  mutant("two keys have one lock", "two keys are held at once", (sound) => ({
    acquire: (key, options) => sound.acquire(String(key).slice(0, 40), options),
  })),
  mutant("an empty key is a key", "an empty key is refused", (sound) => ({
    acquire: (key, options) => sound.acquire(key || "empty", options),
  })),
  ...[42, null].map((key) =>
    mutant(`the key ${key} is made a string`, `the key ${key} is refused`, (sound) => ({
      acquire: (given, options) => sound.acquire(`${given}`, options),
    })),
  ),
  mutant("an ill-formed key is mended", 'the key "\\ud800" is refused', (sound) => ({
    acquire: (key, options) => sound.acquire(String(key).replace(/[\ud800-\udfff]/g, "\ufffd"), options),
  })),
  mutant("empty bytes are a key", "an empty key is refused", (sound) => ({
    acquire: (key: LockKey, options) =>
      sound.acquire(key.length === 0 && key !== "" ? "empty" : key, options),
  })),
  ofBytes("bytes are no key", strings, async () => {
    throw new Broken("no bytes");
  }),
  ofBytes("bytes are another key than their string", strings, async (bytes, sound) => {
    const key = Buffer.from(bytes).toString();
    return handle(await sound.acquire(`bytes:${key}`), { key });
  }),
  ofBytes("bytes are shown in hexadecimal digits", strings, async (bytes, sound) =>
    handle(await sound.acquire(bytes), { key: Buffer.from(bytes).toString("hex") }),
  ),
  ofBytes("all keys of bytes are one key", others, async (bytes, sound) =>
    handle(await sound.acquire("bytes"), { key: (await sound.inspect(bytes)).key }),
  ),
  ofBytes("bytes that are no UTF-8 are replaced", others, (bytes, sound) =>
    sound.acquire(Buffer.from(bytes).toString()),
  ),
  ofBytes("bytes that are no UTF-8 are a new key each time", others, async (bytes, sound) =>
    handle(await sound.acquire(`${Math.random()}`), { key: (await sound.inspect(bytes)).key }),
  ),
  mutant("bytes are read late", "a caller may change the bytes of its key after the call", (sound) => ({
    acquire: async (key, options) => {
      await nextTurn();
      return await sound.acquire(key, options);
    },
  })),
];
