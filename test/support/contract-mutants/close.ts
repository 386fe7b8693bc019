import { MemoryLocker } from "../../../src/index.ts";
import { Broken, type Mutant, methods, mutant, mutantLock, onSameStore, replaced } from "./mutant.ts";

const endsLocks = "close ends every lock, and their handles say so";
const nothing = "after close nothing is granted, and a second close does nothing";
const drains = "close with a drain lets the work under a lock end, and nothing new begin";

const badDrain = "an invalid drain is refused, as is an unknown option, and nothing is closed";

/** Makes a wrapped function anew for each call. */
const later =
  (wrap: (...given: unknown[]) => unknown) =>
  (...given: unknown[]) =>
  (...args: unknown[]) =>
    (wrap(...given) as (...args: unknown[]) => unknown)(...args);

/** Mutants for the end of a locker, and for two lockers on one store. */
export const closeMutants: readonly Mutant[] = [
  mutant("close does nothing", endsLocks, () => ({ close: async () => {} })),
  mutantLock("a handle holds on after close", endsLocks, () => ({ held: true })),
  mutantLock("the signal of a lock doesn't abort on close", endsLocks, () => ({
    signal: new AbortController().signal,
  })),
  mutantLock("a lock can be released once more after close", endsLocks, (lock) => ({
    release: () => (lock.signal.aborted ? Promise.resolve() : lock.release()),
  })),
  mutantLock("disposal of a lock throws after close", endsLocks, (lock) => ({
    [Symbol.asyncDispose]: () => lock.release(),
  })),
  mutant("a closed locker goes on", nothing, (sound) => ({ close: () => sound.ping() })),
  mutant("tryAcquire of a closed locker returns undefined", nothing, (sound) => ({
    tryAcquire: (key, options) =>
      sound.tryAcquire(key, options).catch((error) => {
        if (error.code !== "LOCKER_CLOSED") throw error;
        return undefined;
      }),
  })),
  mutant("a closed locker answers a ping", nothing, () => ({ ping: async () => {} })),
  mutant("a second close rejects", nothing, (sound) => {
    let isClosed = false;
    return {
      close: async (options) => {
        if (isClosed) throw new Broken("closed already");
        isClosed = true;
        await sound.close(options);
      },
    };
  }),
  // Each of them goes on with a store of its own.
  ...methods
    .filter((name) => !["close", "namespace", "on", "semaphore", "withTransaction", "ping"].includes(name))
    .map((name) =>
      replaced(`${name} of a closed locker goes on`, nothing, (sound) => {
        const other = new MemoryLocker();
        let isClosed = false;
        const change = (...given: unknown[]): unknown => {
          const of = (isClosed ? other : sound)[name] as (...given: unknown[]) => unknown;
          return of(...given);
        };
        const close: typeof sound.close = async (options) => {
          isClosed = true;
          await sound.close(options);
        };
        return { [name]: name === "wrapWithLock" ? later(change) : change, close };
      }),
    ),
  replaced("a namespace of a closed locker goes on", nothing, () => ({
    namespace: (name) => new MemoryLocker().namespace(name),
  })),
  replaced("a semaphore of a closed locker goes on", nothing, () => ({
    semaphore: (key, permits) => new MemoryLocker().semaphore(key, permits),
  })),
  mutant("a second close doesn't wait for the first", drains, (sound) => {
    let isClosed = false;
    return {
      close: async (options) => {
        if (isClosed) return;
        isClosed = true;
        await sound.close(options);
      },
    };
  }),
  mutant(
    "a drain that passes frees nothing",
    "a drain that runs out ends what still runs under a lock",
    (sound) => ({
      close: async (options) => {
        if (options?.drain === undefined) await sound.close();
      },
    }),
  ),
  mutant("an unknown option of close is ignored", badDrain, (sound) => ({
    close: (options) => sound.close({ ...(options?.drain !== undefined && { drain: options.drain }) }),
  })),
  mutant("disposal of a locker doesn't close it", "await using closes a locker", () => ({
    [Symbol.asyncDispose]: async () => {},
  })),
  mutant("close ignores its drain", drains, (sound) => ({ close: () => sound.close() })),
  mutant("close goes on granting while it drains", drains, (sound) => {
    let isDraining = false;
    return {
      close: async (options) => {
        isDraining = options?.drain !== undefined;
        if (!isDraining) await sound.close();
      },
    };
  }),
  mutant("a bad drain closes at once", badDrain, (sound) => ({
    close: async (options) => {
      await sound.close(options).catch(async (error) => {
        await sound.close();
        throw error;
      });
    },
  })),
  ...[
    ["two lockers have nothing in common", "two lockers contend"],
    ["two lockers wait for nothing", "a waiter gets the lock when another locker releases it"],
    ["two lockers wait for no close", "a waiter gets the lock when its holder's locker closes"],
  ].map(([does = "", caughtBy = ""]) =>
    mutant(does, caughtBy, () => ({}), { another: () => new MemoryLocker() }),
  ),
  mutant("close leaves the locks in the store", "close frees every key", () => ({ close: async () => {} }), {
    another: onSameStore,
  }),
];
