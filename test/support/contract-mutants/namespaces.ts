import type { NamespacedTransactionLocker } from "../../../src/index.ts";
import { handle, type Mutant, replaced, type Sound } from "./mutant.ts";

const prefixes = "a namespace puts its name and a colon before every key";
const apart = "a key in a namespace differs from the same key in another namespace, and in the locker itself";
const more = "a namespace has semaphores, elections and keys of bytes of its own, and answers a ping";
const hears = "a listener of a namespace hears of its keys alone";
const names = "a namespace whose name could not be a key is refused, and so is an empty key in a namespace";

/** Changes what `namespace` returns. */
const within = (
  does: string,
  caughtBy: string,
  change: (
    within: NamespacedTransactionLocker,
    sound: Sound,
    name: string,
  ) => Partial<NamespacedTransactionLocker>,
): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    namespace: (name) => handle(sound.namespace(name), change(sound.namespace(name), sound, name)),
  }));

const itself = (sound: Sound): NamespacedTransactionLocker => sound as unknown as NamespacedTransactionLocker;

/** Mutants for `namespace`. */
export const namespaceMutants: readonly Mutant[] = [
  replaced("namespace ignores its name", prefixes, (sound) => ({ namespace: () => itself(sound) })),
  replaced("a namespace has a dot before its keys", prefixes, (sound) => ({
    namespace: (name) =>
      handle(itself(sound), { acquire: (key, options) => sound.acquire(`${name}.${key}`, options) }),
  })),
  ...(
    [
      "tryAcquire",
      "acquireAll",
      "tryAcquireAll",
      "withLock",
      "tryWithLock",
      "withLocks",
      "wrapWithLock",
      "inspect",
      "isHeld",
    ] as const
  ).map((method) =>
    within(`${method} of a namespace ignores its name`, prefixes, (_, sound) => ({
      [method]: sound[method],
    })),
  ),
  within("a namespace leaves keys as they are that are computed", prefixes, (sound, locker) => ({
    wrapWithLock: (key, fn, options) =>
      (typeof key === "function" ? locker : sound).wrapWithLock(key, fn, options),
  })),
  within("a handle of a namespace has the key without the name", prefixes, (sound) => ({
    acquire: async (key, options) => handle(await sound.acquire(key, options), { key: String(key) }),
  })),
  within("a namespace in a namespace loses the name of the outer one", apart, (_, sound) => ({
    namespace: sound.namespace,
  })),
  replaced("all namespaces are one", apart, (sound) => ({
    namespace: () => sound.namespace("name"),
  })),
  within("a namespace shares its semaphores with the locker", more, (_, { semaphore }) => ({ semaphore })),
  within("a namespace makes a semaphore of another key", more, (sound) => ({
    semaphore: (key, permits) =>
      handle(sound.semaphore(`${key}:own`, permits), { key: sound.semaphore(key, 1).key }),
  })),
  within("a namespace shares its elections with the locker", more, (_, { elect }) => ({ elect })),
  within("a namespace makes bytes a string", more, (sound) => ({
    acquire: (key, options) => sound.acquire(Buffer.from(key as Uint8Array).toString(), options),
  })),
  within("a namespace never answers a ping", more, () => ({ ping: () => new Promise(() => {}) })),
  within("a listener of a namespace hears of all keys", hears, (_, { on }) => ({ on })),
  within("a listener of a namespace hears nothing", hears, () => ({ on: () => () => {} })),
  ...["", "\ud800", 42].map((bad) =>
    replaced(`namespace takes the name ${JSON.stringify(bad)}`, names, (sound) => ({
      namespace: (name: string | number) => sound.namespace(name === bad ? "name" : (name as string)),
    })),
  ),
  within("an empty key in a namespace is a key", names, (sound) => ({
    acquire: (key, options) => sound.acquire(key || "empty", options),
  })),
];
