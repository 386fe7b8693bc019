import type { AcquireOptions, Lock, LockGroup } from "../../../src/index.ts";
import { ignored, type Mutant, replaced, type Sound, without } from "./mutant.ts";

const runs = "withLocks runs its function under all its locks, and releases them whatever the function does";
const refused = "withLocks doesn't run its function unless it gets all its locks";
const past = "withLocks keeps its locks past their TTL";
const lapsing = "withLocks rejects as soon as one of its locks lapses, whatever its function does";
const passedOn = "wrapWithLock passes on `this`, the arguments and the result, and locks each time";
const wrapped = "a function of wrapWithLock is refused or waits as its options say";
const atOnce = "wrapWithLock refuses at once what is not a function, and an unknown option";

const noGroup = { locks: [], held: true, signal: new AbortController().signal } as unknown as LockGroup;

const withLocks = (does: string, caughtBy: string, change: (sound: Sound) => Sound["withLocks"]): Mutant =>
  replaced(does, caughtBy, (sound) => ({ withLocks: change(sound) }));

type Fn = (this: unknown, ...args: unknown[]) => unknown;
type Wrap = (key: string | ((...args: unknown[]) => string), fn: Fn, options?: AcquireOptions) => Fn;

const wrapWithLock = (does: string, caughtBy: string, change: (wrap: Wrap, sound: Sound) => Wrap): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    wrapWithLock: change(sound.wrapWithLock as Wrap, sound) as Sound["wrapWithLock"],
  }));

/** Mutants for functions that run under several locks, or under a lock whenever they are called. */
export const withLocksMutants: readonly Mutant[] = [
  withLocks("withLocks runs its function without a lock", runs, () => async (_, fn) => await fn(noGroup)),
  withLocks("withLocks keeps its locks", runs, (sound) => async (keys, fn, options) => {
    return await fn(await sound.acquireAll(keys, options));
  }),
  withLocks("withLocks keeps its locks if its function fails", runs, (sound) => async (keys, fn, options) => {
    const group = await sound.acquireAll(keys, options);
    const value = await fn(group);
    await group.release();
    return value;
  }),
  withLocks(
    "withLocks takes its first lock only",
    runs,
    (sound) => (keys, fn, options) => sound.withLocks(keys.slice(0, 1), fn, options),
  ),
  withLocks("withLocks resolves with nothing", runs, (sound) => async (keys, fn, options) => {
    await sound.withLocks(keys, fn, options);
    return undefined as never;
  }),
  withLocks(
    "withLocks ignores a failed release",
    runs,
    (sound) => (keys, fn, options) =>
      sound.withLocks(keys, fn, options).catch((error) => {
        if (error.reason !== "released") throw error;
        return undefined as never;
      }),
  ),
  ignored("withLocks", "ttl", runs),
  withLocks(
    "withLocks runs its function though a key is held",
    refused,
    (sound) => (keys, fn, options) =>
      sound.withLocks(keys, fn, options).catch((error) => {
        if (error.reason === "held") return fn(noGroup);
        throw error;
      }),
  ),
  withLocks(
    "withLocks runs its function when its wait has passed",
    refused,
    (sound) => (keys, fn, options) =>
      sound.withLocks(keys, fn, options).catch((error) => {
        if (error.reason === "wait-timeout") return fn(noGroup);
        throw error;
      }),
  ),
  withLocks(
    "withLocks of no key runs its function",
    refused,
    (sound) => async (keys, fn, options) =>
      keys.length === 0 ? await fn(noGroup) : await sound.withLocks(keys, fn, options),
  ),
  withLocks(
    "withLocks keeps what it has got if another key is held",
    refused,
    (sound) => async (keys, fn, options) =>
      sound.withLocks(keys, fn, options).catch(async (error) => {
        if (error.reason === "held") for (const key of keys) await sound.tryAcquire(key);
        throw error;
      }),
  ),
  ignored("withLocks", "wait", refused),
  ignored("withLocks", "signal", refused),
  withLocks(
    "withLocks doesn't refresh",
    past,
    (sound) => (keys, fn, options) => sound.withLocks(keys, fn, { ...options, autoRefresh: false }),
  ),
  withLocks(
    "withLocks waits for its function, though a lock has lapsed",
    lapsing,
    (sound) => async (keys, fn, options) => {
      await using group = await sound.acquireAll(keys, options);
      return await fn(group);
    },
  ),
  wrapWithLock(
    "wrapWithLock doesn't lock",
    passedOn,
    () =>
      (_, fn) =>
      async (...args) =>
        fn(...args),
  ),
  wrapWithLock("wrapWithLock doesn't lock, but passes on `this`", passedOn, () => (_, fn) => {
    return async function (...args) {
      return Reflect.apply(fn, this, args);
    };
  }),
  wrapWithLock(
    "wrapWithLock drops `this`",
    passedOn,
    (wrap) => (key, fn, options) => wrap(key, (...args) => Reflect.apply(fn, { balance: 0 }, args), options),
  ),
  wrapWithLock(
    "wrapWithLock drops the arguments",
    passedOn,
    (wrap) => (key, fn, options) =>
      wrap(
        key,
        function () {
          return Reflect.apply(fn, this, []);
        },
        options,
      ),
  ),
  wrapWithLock(
    "wrapWithLock computes its key without the arguments",
    passedOn,
    (wrap) => (key, fn, options) => wrap(typeof key === "function" ? () => key() : key, fn, options),
  ),
  wrapWithLock("wrapWithLock drops the result", passedOn, (wrap) => (key, fn, options) => {
    const inner = wrap(key, fn, options);
    return async function (...args) {
      await Reflect.apply(inner, this, args);
    };
  }),
  wrapWithLock("wrapWithLock keeps the lock if its function fails", passedOn, (_, sound) => (key, fn) => {
    return async function (...args) {
      const lock = await sound.acquire(typeof key === "function" ? key(...args) : key);
      const value = await Reflect.apply(fn, this, args);
      await lock.release();
      return value;
    };
  }),
  wrapWithLock("wrapWithLock locks once", passedOn, (_, sound) => {
    return (key, fn) => {
      let lock: Promise<Lock> | undefined;
      return async function (...args) {
        lock ??= sound.acquire(typeof key === "function" ? key(...args) : key);
        await lock;
        try {
          return await Reflect.apply(fn, this, args);
        } finally {
          await (await lock)[Symbol.asyncDispose]();
        }
      };
    };
  }),
  wrapWithLock(
    "wrapWithLock of an empty key runs its function",
    passedOn,
    (wrap) => (key, fn, options) => wrap(key === "" ? "empty" : key, fn, options),
  ),
  ignored("wrapWithLock", "wait", wrapped),
  wrapWithLock(
    "wrapWithLock runs its function though the key is held",
    wrapped,
    (wrap) => (key, fn, options) => {
      const inner = wrap(key, fn, options);
      return async function (...args) {
        return await (Reflect.apply(inner, this, args) as Promise<unknown>).catch((error) => {
          if (error.reason === "held") return Reflect.apply(fn, this, args);
          throw error;
        });
      };
    },
  ),
  wrapWithLock(
    "wrapWithLock takes what is no function",
    atOnce,
    (wrap) => (key, fn, options) => (typeof fn === "function" ? wrap(key, fn, options) : async () => fn),
  ),
  wrapWithLock(
    "wrapWithLock looks at its options when it is called",
    atOnce,
    (wrap) =>
      (key, fn, options = {}) => {
        wrap(key, fn, without(options, "tll"));
        return (...args) => wrap(key, fn, options)(...args);
      },
  ),
];
