import { setTimeout as delay } from "node:timers/promises";
import { type Lock, LockNotHeldError } from "../../../src/index.ts";
import { handle, ignored, type Mutant, onSameStore, replaced } from "./mutant.ts";

const keeps =
  "a lock with holdAtLeast keeps others out after an early release, which ends its handle at once";
const frees = "a lock with holdAtLeast is free when it has been released and the time has passed";
const closes = "close frees a lock that is kept after its release";

/** Changes the handles of locks with `holdAtLeast`. */
const kept = (does: string, caughtBy: string, change: (lock: Lock) => Partial<Lock>): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    acquire: async (key, options) => {
      const lock = await sound.acquire(key, options);
      return options?.holdAtLeast === undefined ? lock : handle(lock, change(lock));
    },
  }));

/** Mutants for locks that are held for a minimum time. */
export const holdAtLeastMutants: readonly Mutant[] = [
  ...(["acquire", "tryAcquire", "withLock", "tryWithLock", "wrapWithLock"] as const).map((method) =>
    ignored(method, "holdAtLeast", keeps),
  ),
  replaced("disposal frees a lock with holdAtLeast", keeps, (sound) => ({
    acquire: async (key, options) => {
      if (options?.holdAtLeast === undefined || !String(key).endsWith(":disposal"))
        return await sound.acquire(key, options);
      return await sound.acquire(key);
    },
  })),
  kept("a release of a lock with holdAtLeast takes as long", keeps, (lock) => ({
    release: async () => {
      await delay(60_000, undefined, { ref: false });
      await lock.release();
    },
  })),
  kept("a lock with holdAtLeast is held after its release", keeps, () => ({ held: true })),
  kept("a lock with holdAtLeast can be released twice", keeps, (lock) => ({
    release: () => (lock.held ? lock.release() : Promise.resolve()),
  })),
  kept("a lock with holdAtLeast can be refreshed after its release", keeps, (lock) => ({
    refresh: () => (lock.held ? lock.refresh() : Promise.resolve()),
  })),
  kept("assertHeld of a lock with holdAtLeast never throws", keeps, () => ({ assertHeld: () => {} })),
  kept("disposal of a released lock with holdAtLeast throws", keeps, (lock) => ({
    [Symbol.asyncDispose]: () => lock.release(),
  })),
  kept("an early release aborts the signal", keeps, (lock) => {
    const aborting = new AbortController();
    return {
      signal: aborting.signal,
      release: async () => {
        aborting.abort(new LockNotHeldError({ key: lock.key, reason: "released" }));
        await lock.release();
      },
    };
  }),
  replaced("a lock with holdAtLeast is never free", frees, (sound) => ({
    acquire: (key, { holdAtLeast, ...options } = {}) =>
      sound.acquire(key, { ...options, ...(holdAtLeast !== undefined && { holdAtLeast: "1h" }) }),
  })),
  replaced("a lock with holdAtLeast is free when the time has passed, released or not", frees, (sound) => ({
    acquire: async (key, options = {}) => {
      if (options.holdAtLeast !== 1) return await sound.acquire(key, options);
      const lock = await sound.acquire(key);
      await lock.release();
      return lock;
    },
  })),
  replaced("close leaves locks with holdAtLeast in the store", closes, () => ({ close: async () => {} }), {
    another: onSameStore,
  }),
];
