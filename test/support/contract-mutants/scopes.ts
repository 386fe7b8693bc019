import type { AcquireOptions, Lock, Locker } from "../../../src/index.ts";
import { Broken, ignored, type Mutant, mutant, replaced, type Sound } from "./mutant.ts";

const answers =
  "withLock returns what its function returns, and releases the lock whatever the function does";
const passedOn =
  "tryWithLock passes on the error of its function, and releases the lock whatever the function does";
const own = "tryWithLock doesn't mistake an error of its function for a held key";
const empty = "withLock and tryWithLock of an empty key are refused, and their function doesn't run";
const refused = "the key is held inside withLock, and a refused withLock doesn't run its function";
const notRun = "tryWithLock returns without running its function if the lock is held";
const contended = "a withLock that waits runs its function once the holder has released, and not before";
const left = "a withLock whose wait runs out, or is aborted, never runs its function";
const past = "withLock keeps its lock past the TTL";
const lapsing = "withLock rejects as soon as its lock lapses, whatever its function does";
const noFunction =
  "withLock, tryWithLock and withLocks refuse what is not a function, and the key stays free";
const asked = "withLock and tryWithLock have the lock that their options ask for";
const failedRelease = "a failed release fails withLock, or is the `suppressed` of what its function throws";
const tryWaits =
  "a tryWithLock that waits runs its function once the holder has released, unless it is aborted";

const noLock = {} as Lock;

/** Runs the function under the lock, as a careless author would write it. */
async function under<T>(lock: Lock, fn: (lock: Lock) => T | Promise<T>): Promise<T> {
  try {
    return await fn(lock);
  } finally {
    await lock[Symbol.asyncDispose]();
  }
}

const withLock = (does: string, caughtBy: string, change: (sound: Sound) => Locker["withLock"]): Mutant =>
  mutant(does, caughtBy, (sound) => ({ withLock: change(sound) }));
const tryWithLock = (
  does: string,
  caughtBy: string,
  change: (sound: Sound) => Locker["tryWithLock"],
): Mutant => mutant(does, caughtBy, (sound) => ({ tryWithLock: change(sound) }));

/** Mutants for functions that run under a lock. */
export const scopeMutants: readonly Mutant[] = [
  withLock("withLock resolves with nothing", answers, (sound) => async (key, fn, options) => {
    await sound.withLock(key, fn, options);
    return undefined as never;
  }),
  withLock(
    "withLock wraps the error of its function",
    answers,
    (sound) => (key, fn, options) =>
      sound.withLock(key, fn, options).catch((cause) => {
        throw new Broken("the function failed", { cause });
      }),
  ),
  withLock("withLock keeps its lock if its function throws", answers, (sound) => async (key, fn, options) => {
    const lock = await sound.acquire(key, options);
    const value = await fn(lock);
    await lock.release();
    return value;
  }),
  withLock(
    "withLock keeps its lock if its function rejects",
    answers,
    (sound) => async (key, fn, options) => {
      const lock = await sound.acquire(key, options);
      let running: ReturnType<typeof fn>;
      try {
        running = fn(lock);
      } catch (error) {
        await lock.release();
        throw error;
      }
      const value = await running;
      await lock.release();
      return value;
    },
  ),
  tryWithLock(
    "tryWithLock keeps its lock if its function throws",
    passedOn,
    (sound) => async (key, fn, options) => {
      const lock = await sound.tryAcquire(key, options);
      if (lock === undefined) return { acquired: false };
      const value = await fn(lock);
      await lock.release();
      return { acquired: true, value };
    },
  ),
  tryWithLock(
    "tryWithLock swallows the error of its function",
    passedOn,
    (sound) => (key, fn, options) =>
      sound.tryWithLock(key, fn, options).catch((error) => {
        if (error.code !== undefined) throw error;
        return { acquired: false } as const;
      }),
  ),
  tryWithLock(
    "tryWithLock takes whatever says that a lock is held for its own",
    own,
    (sound) => async (key, fn, options) => {
      try {
        return { acquired: true, value: await sound.withLock(key, fn, options) };
      } catch (error) {
        if ((error as { code?: string }).code === "LOCK_NOT_ACQUIRED") return { acquired: false };
        throw error;
      }
    },
  ),
  withLock(
    "withLock of an empty key runs its function without a lock",
    empty,
    (sound) => async (key, fn, options) =>
      key === "" ? await fn(noLock) : await sound.withLock(key, fn, options),
  ),
  tryWithLock(
    "tryWithLock of an empty key runs its function without a lock",
    empty,
    (sound) => async (key, fn, options) =>
      key === "" ? { acquired: true, value: await fn(noLock) } : await sound.tryWithLock(key, fn, options),
  ),
  tryWithLock(
    "tryWithLock of an empty key says that it is held",
    empty,
    (sound) => async (key, fn, options) =>
      key === "" ? { acquired: false } : await sound.tryWithLock(key, fn, options),
  ),
  withLock(
    "withLock runs its function though the key is held",
    refused,
    (sound) => async (key, fn, options) =>
      under((await sound.tryAcquire(key, options)) ?? (await sound.acquire(`${key}:spare`)), fn),
  ),
  mutant("withLock releases before its function is done", refused, (sound) => ({
    withLock: async (key, fn, options) => {
      const lock = await sound.acquire(key, options);
      const running = fn(lock);
      await lock.release();
      return await running;
    },
  })),
  tryWithLock("tryWithLock throws if the key is held", notRun, (sound) => async (key, fn, options) => ({
    acquired: true,
    value: await sound.withLock(key, fn, options),
  })),
  tryWithLock(
    "tryWithLock runs its function, and then says that the key was held",
    notRun,
    (sound) => async (key, fn, options) => {
      const lock = await sound.tryAcquire(key, options);
      const value = await under(lock ?? (await sound.acquire(`${key}:spare`)), fn);
      return lock === undefined ? { acquired: false } : { acquired: true, value };
    },
  ),
  withLock(
    "withLock that waits runs its function at once",
    contended,
    (sound) => async (key, fn, options) => {
      const { wait, ...rest } = options ?? {};
      const lock = wait === undefined ? await sound.acquire(key, rest) : await sound.tryAcquire(key, rest);
      return await under(lock ?? (await sound.acquire(`${key}:spare`)), fn);
    },
  ),
  withLock("withLock ignores its wait", contended, (sound) => (key, fn, options) => {
    const { wait: _, ...rest }: AcquireOptions = options ?? {};
    return sound.withLock(key, fn, rest);
  }),
  withLock(
    "withLock runs its function without the lock when its wait has passed",
    left,
    (sound) => (key, fn, options) =>
      sound.withLock(key, fn, options).catch((error) => {
        if (error.reason === "wait-timeout") return fn(noLock);
        throw error;
      }),
  ),
  withLock(
    "withLock runs its function without the lock when it is aborted",
    left,
    (sound) => (key, fn, options) =>
      sound.withLock(key, fn, options).catch((error) => {
        if (options?.signal?.aborted) return fn(noLock);
        throw error;
      }),
  ),
  withLock(
    "withLock doesn't refresh",
    past,
    (sound) => (key, fn, options) => sound.withLock(key, fn, { ...options, autoRefresh: false }),
  ),
  withLock(
    "withLock waits for its function, though the lock has lapsed",
    lapsing,
    (sound) => async (key, fn, options) => under(await sound.acquire(key, options), fn),
  ),
  ...(["withLock", "tryWithLock", "withLocks"] as const).map((method) =>
    replaced(`${method} takes what is no function for one that does nothing`, noFunction, (sound) => ({
      [method]: (key: never, fn: unknown, options?: AcquireOptions) =>
        (sound[method] as Sound["withLock"])(
          key,
          typeof fn === "function" ? (fn as never) : () => {},
          options,
        ),
    })),
  ),
  ...(["withLock", "tryWithLock"] as const).flatMap((method) => [
    ...["ttl", "mode", "fencing"].map((option) => ignored(method, option, asked)),
    ...(
      [
        [
          "ignores a failed release",
          (error) => {
            if (error.reason !== "released") throw error;
          },
        ],
        [
          "drops the error of the release",
          (error) => {
            Reflect.deleteProperty(error, "suppressed");
            throw error;
          },
        ],
        [
          "prefers the error of the release",
          (error) => {
            throw error.suppressed ?? error;
          },
        ],
      ] as ReadonlyArray<[string, (error: { reason?: string; suppressed?: unknown }) => void]>
    ).map(([does, change]) =>
      replaced(`${method} ${does}`, failedRelease, (sound) => ({
        [method]: (key: string, fn: () => void, options?: AcquireOptions) =>
          (sound[method] as Sound["withLock"])(key, fn, options).catch(change),
      })),
    ),
  ]),
  ...["wait", "signal"].map((option) => ignored("tryWithLock", option, tryWaits)),
  tryWithLock(
    "tryWithLock doesn't refresh",
    "tryWithLock keeps its lock past the TTL",
    (sound) => (key, fn, options) => sound.tryWithLock(key, fn, { ...options, autoRefresh: false }),
  ),
  tryWithLock(
    "tryWithLock waits for its function, though the lock has lapsed",
    "tryWithLock rejects as soon as its lock lapses, whatever its function does",
    (sound) => async (key, fn, options) => {
      const lock = await sound.tryAcquire(key, options);
      return lock === undefined ? { acquired: false } : { acquired: true, value: await under(lock, fn) };
    },
  ),
];
