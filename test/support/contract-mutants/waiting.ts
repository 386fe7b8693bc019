import { setTimeout as delay } from "node:timers/promises";
import { type AcquireOptions, type Lock, type LockKey, LockNotAcquiredError } from "../../../src/index.ts";
import { changedOptions, type Mutant, mutant, replaced, without } from "./mutant.ts";

const released = "a waiter gets the lock when it is released";
const passes =
  "a wait that runs out rejects, or makes tryAcquire return undefined, and the holder keeps the lock";
const abortedWait = "an aborted wait rejects with the signal's own reason, and the next in line is served";
const sharedSignal = "one signal ends any number of calls, even if its class is not Node.js's own";
const readers = "waiting readers are let in together, and no reader passes a waiting writer";
const around = "an unbounded wait for the same key inside withLock is refused at once";
const noWait = ({ wait: _, ...options }: AcquireOptions = {}) => options;

/** Mutants for waiting. */
export const waitingMutants: readonly Mutant[] = [
  mutant("nobody waits", released, (sound) => ({
    acquire: (key, options) => sound.acquire(key, noWait(options)),
  })),
  mutant("a waiter isn't told of the release", released, (sound) => ({
    acquire: async (key, options) => {
      if (!options?.wait) return await sound.acquire(key, options);
      await delay(60_000, undefined, { ref: false });
      return await sound.acquire(key, options);
    },
  })),
  mutant(
    "a very short wait ends without a try",
    "a free lock is worth one try, however short the wait",
    (sound) => ({
      acquire: async (key, options) => {
        if (options?.wait === "1ns")
          throw new LockNotAcquiredError({ key: String(key), reason: "wait-timeout", waited: 0 });
        return await sound.acquire(key, options);
      },
    }),
  ),
  mutant("a wait has no bound", passes, (sound) => ({
    acquire: (key, options) =>
      sound.acquire(key, options?.wait ? { ...options, wait: true } : noWait(options)),
  })),
  mutant("a wait that has passed says that the key is held", passes, (sound) => ({
    acquire: (key, options) =>
      sound.acquire(key, options).catch((error) => {
        if (error.reason !== "wait-timeout") throw error;
        throw new LockNotAcquiredError({ key: String(key), reason: "held" });
      }),
  })),
  mutant("tryAcquire throws if its wait has passed", passes, (sound) => ({
    tryAcquire: (key, options) =>
      options?.wait ? sound.acquire(key, options) : sound.tryAcquire(key, options),
  })),
  mutant("a wait that passes takes the lock from its holder", passes, (sound) => {
    const holders = new Map<LockKey, Lock>();
    return {
      acquire: async (key, options) => {
        const lock = await sound.acquire(key, options).catch(async (error) => {
          if (options?.wait) await holders.get(key)?.[Symbol.asyncDispose]();
          throw error;
        });
        holders.set(key, lock);
        return lock;
      },
    };
  }),
  ...["-1", '"-1s"', "NaN", "Infinity", '"5"', '"soon"', "false", "null"].map((wait) =>
    mutant(`a wait of ${wait} is none`, `a wait of ${wait} is refused, and the key stays free`, (sound) => ({
      acquire: (key, options) =>
        sound.acquire(key, options).catch((error) => {
          if (error.field !== "wait") throw error;
          return sound.acquire(key, noWait(options));
        }),
    })),
  ),
  mutant("an abort doesn't end a wait", abortedWait, (sound) => ({
    acquire: (key, options = {}) => {
      const { signal, ...rest } = options;
      return sound.acquire(key, rest);
    },
  })),
  mutant("a waiter that was aborted keeps its place in line", abortedWait, (sound) => ({
    acquire: async (key, options = {}) => {
      const { signal, ...rest } = options;
      const waiting = sound.acquire(key, rest);
      if (signal === undefined) return await waiting;
      return await new Promise<Lock>((resolve, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
        waiting.then(resolve, reject);
      });
    },
  })),
  replaced("a signal that isn't Node.js's own is ignored", sharedSignal, (sound) => ({
    acquire: (key, options = {}) =>
      sound.acquire(key, options.signal instanceof AbortSignal ? options : without(options, "signal")),
  })),
  replaced("a signal ends one call only", sharedSignal, (sound) => {
    const used = new WeakSet<object>();
    return {
      acquire: (key, options = {}) => {
        const { signal } = options;
        if (signal === undefined || !used.has(signal)) {
          if (signal !== undefined) used.add(signal);
          return sound.acquire(key, options);
        }
        return sound.acquire(key, without(options, "signal"));
      },
    };
  }),
  ...(
    [
      "acquire",
      "tryAcquire",
      "acquireAll",
      "tryAcquireAll",
      "withLock",
      "tryWithLock",
      "withLocks",
      "wrapWithLock",
    ] as const
  ).map((method) =>
    changedOptions(
      `${method} waits though nobody told it to`,
      "a call without the option `wait` doesn't wait",
      {
        method,
        change: (options) => ({ wait: 20, ...options }),
      },
    ),
  ),
  mutant(
    "the last to come is served first",
    "waiters of one locker are served in the order in which they came",
    (sound) => {
      const stack: Array<() => void> = [];
      let isHeld = false;
      return {
        acquire: async (key, options) => {
          if (isHeld) await new Promise<void>((resolve) => stack.push(resolve));
          isHeld = true;
          const lock = await sound.acquire(key, noWait(options));
          const release = lock.release.bind(lock);
          return Object.assign(lock, {
            release: async () => {
              await release();
              const next = stack.pop();
              isHeld = next !== undefined;
              next?.();
            },
          });
        },
      };
    },
  ),
  mutant("close doesn't end a wait", "close ends every wait", () => ({ close: async () => {} })),
  mutant("readers are let in one after the other", readers, (sound) => ({
    acquire: (key, options) => sound.acquire(key, { ...options, mode: "exclusive" }),
  })),
  mutant("a reader that tries passes a writer that waits", readers, (sound) => ({
    tryAcquire: async (key, options) =>
      (await sound.tryAcquire(key, options)) ?? (await sound.tryAcquire(`${key}:reader`, options)),
  })),
  mutant("a wait inside withLock is waited", around, (sound) => ({
    withLock: async (key, fn, options) => {
      const lock = await sound.acquire(key, options);
      try {
        return await fn(lock);
      } finally {
        await lock.release();
      }
    },
  })),
  mutant("a lock is re-entrant inside withLock", around, (sound) => {
    let inside: Lock | undefined;
    return {
      acquire: async (key, options) => inside ?? (await sound.acquire(key, options)),
      withLock: (key, fn, options) =>
        sound.withLock(
          key,
          async (lock) => {
            inside = lock;
            try {
              return await fn(lock);
            } finally {
              inside = undefined;
            }
          },
          options,
        ),
    };
  }),
];
