import { type Locker, MemoryLocker } from "../../../src/index.ts";
import { Broken, type Mutant, mutant, mutantLock } from "./mutant.ts";

const endsLocks = "close ends every lock, and their handles say so";
const nothing = "after close nothing is granted, and a second close is quiet";
const drains = "close with a drain lets the work under a lock end, and nothing new begin";

/** A second locker on the store of the first, whose `close` leaves the store open. */
function onSameStore(sound: MemoryLocker): Locker {
  const close = async (): Promise<void> => {};
  // Its methods are own properties, and can be called without `this`.
  return { ...sound, close, [Symbol.asyncDispose]: close } as unknown as Locker;
}

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
  mutant(
    "a bad drain closes at once",
    "a drain that is no duration is refused, and nothing is closed",
    (sound) => ({
      close: async (options) => {
        await sound.close(options).catch(async (error) => {
          await sound.close();
          throw error;
        });
      },
    }),
  ),
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
