import { AsyncLocalStorage } from "node:async_hooks";
import type { AcquireOptions, Lock } from "../../../src/index.ts";
import { handle, ignored, type Mutant, replaced, type Sound } from "./mutant.ts";

const shares = "a reentrant call shares the lock of the function around it, which alone releases it";
const alone = "a reentrant call outside of withLock takes the lock, or is refused, like any other";
const siblings = "reentrant calls exclude each other, and wait for each other only with the option `wait`";
const modes = "a reentrant call for the exclusive mode is refused inside a shared lock";
const ends = "the lock of a reentrant call ends with the function around it";

/** A locker that takes reentrant calls as `part` says. `around`: the lock of the `withLock` around the call, if there is one. */
function taking(
  does: string,
  caughtBy: string,
  part: (
    around: Lock | undefined,
    call: { key: string; options: AcquireOptions; sound: Sound },
  ) => Promise<Lock> | undefined,
): Mutant {
  return replaced(does, caughtBy, (sound) => {
    const locks = new AsyncLocalStorage<Lock>();
    const acquire = (key: string, options: AcquireOptions = {}): Promise<Lock> => {
      const around = locks.getStore();
      const taken = options.reentrant
        ? part(around?.held && around.key === key ? around : undefined, { key, options, sound })
        : undefined;
      return taken ?? sound.acquire(key, options);
    };
    const withLock = (
      key: string,
      fn: (lock: Lock) => unknown,
      options: AcquireOptions = {},
    ): Promise<unknown> => {
      const taken = options.reentrant ? acquire(key, options) : undefined;
      if (taken === undefined) return sound.withLock(key, (lock) => locks.run(lock, fn, lock), options);
      return taken.then(async (lock) => {
        try {
          return await fn(lock);
        } finally {
          await lock[Symbol.asyncDispose]();
        }
      });
    };
    return { acquire: acquire as Sound["acquire"], withLock: withLock as Sound["withLock"] };
  });
}

/** A part that its holder can release without an effect on the lock. */
function partOf(lock: Lock): Lock {
  let isReleased = false;
  return handle(lock, {
    get held() {
      return !isReleased && lock.held;
    },
    release: async () => {
      isReleased = true;
    },
    [Symbol.asyncDispose]: async () => {
      isReleased = true;
    },
  });
}

/** Mutants for calls that share the lock around them. */
export const reentrantMutants: readonly Mutant[] = [
  ...(["acquire", "tryAcquire", "withLock", "tryWithLock", "withLocks", "wrapWithLock"] as const).map(
    (method) => ignored(method, "reentrant", shares),
  ),
  taking("a reentrant call takes a lock of its own", shares, (around, { key, sound }) =>
    around === undefined ? undefined : sound.acquire(`${key}:spare`).then((lock) => handle(lock, { key })),
  ),
  taking("a reentrant call releases the lock of the function around it", shares, (around) =>
    around === undefined ? undefined : Promise.resolve(around),
  ),
  taking("a reentrant call is granted whoever has the lock", alone, (around, { key, options, sound }) =>
    around === undefined ? sound.acquire(key, options).catch(() => sound.acquire(`${key}:spare`)) : undefined,
  ),
  taking("reentrant calls go side by side", siblings, (around) =>
    around === undefined ? undefined : Promise.resolve(partOf(around)),
  ),
  taking("reentrant calls don't wait for each other", siblings, (around, { key, options, sound }) =>
    around === undefined ? undefined : sound.acquire(key, { ...options, wait: 0 }),
  ),
  taking("a reentrant call has the mode of the lock around it", modes, (around, { key, options, sound }) =>
    around === undefined ? undefined : sound.acquire(key, { ...options, mode: around.mode }),
  ),
  taking("a reentrant call is refused inside a shared lock", modes, (around, { key, sound }) =>
    around?.mode === "shared" ? sound.acquire(key) : undefined,
  ),
  taking("a reentrant lock goes on after the function around it", ends, (around, { key, options, sound }) =>
    around === undefined
      ? undefined
      : sound.acquire(key, options).then((lock) => handle(lock, { held: true, assertHeld: () => {} })),
  ),
  taking("the signal of a reentrant lock never aborts", ends, (around, { key, options, sound }) =>
    around === undefined
      ? undefined
      : sound.acquire(key, options).then((lock) => handle(lock, { signal: new AbortController().signal })),
  ),
  taking(
    "a reentrant lock can be released after the function around it",
    ends,
    (around, { key, options, sound }) =>
      around === undefined
        ? undefined
        : sound
            .acquire(key, options)
            .then((lock) => handle(lock, { release: () => lock.release().catch(() => {}) })),
  ),
];
