import { setTimeout as delay } from "node:timers/promises";
import { type AcquireOptions, type Lock, type LockKey, LockNotAcquiredError } from "../../../src/index.ts";
import { Broken, type Mutant, methods, mutant, mutantLock, replaced, without } from "./mutant.ts";

const refused = (key: LockKey) => new LockNotAcquiredError({ key: String(key), reason: "held" });
const released = "after a release, another release or a refresh rejects, and a disposal doesn't throw";
const shared = "shared holders hold the lock together; they and an exclusive holder exclude each other";
const handles = "a handle has the key, the id, the mode and the TTL, is held, and can be released";
const badRefresh = "a refresh with an invalid TTL is refused, and the lock stays as it was";
const tokens = "fencing tokens grow from each holder of a key to the next, and are there only if asked for";
const badOption = "an unknown option is refused by name, and so is an invalid value";
const aborted = "an aborted signal rejects with its own reason, and the key stays free";

/** Grants locks by its own rule: who may hold one beside whom. */
function modes(forbids: (wanted: string, held: readonly string[]) => boolean, does: string): Mutant {
  return mutant(does, shared, (sound) => {
    const held = new Map<LockKey, string[]>();
    return {
      acquire: async (key, options = {}) => {
        const mode = options.mode ?? "exclusive";
        const holders = held.get(key) ?? [];
        held.set(key, holders);
        if (forbids(mode, holders)) throw refused(key);
        holders.push(mode);
        // Each has a key of its own in the store, which therefore keeps nobody out.
        const lock = await sound.acquire(`${key}:${holders.length}:${Math.random()}`, options);
        const give = lock.release.bind(lock);
        Object.assign(lock, {
          release: async () => {
            holders.splice(holders.indexOf(mode), 1);
            await give();
          },
        });
        return lock;
      },
    };
  });
}

/** Mutants for acquiring and releasing locks. */
export const lockMutants: readonly Mutant[] = [
  mutantLock("a second release is fine", released, (lock) => ({
    release: () => (lock.held ? lock.release() : Promise.resolve()),
  })),
  mutantLock("a refresh after the release is fine", released, (lock) => ({
    refresh: () => (lock.held ? lock.refresh() : Promise.resolve()),
  })),
  mutantLock("disposal after the release throws", released, (lock) => ({
    [Symbol.asyncDispose]: () => lock.release(),
  })),
  mutantLock(
    "two releases at once are both fine",
    "of two releases at once, one says that the lock was not held",
    (lock) => {
      let first: Promise<void> | undefined;
      return { release: () => (first ??= lock.release()) };
    },
  ),
  mutant(
    "a second release frees the lock of the next holder",
    "a second release doesn't free the lock of the next holder",
    (sound) => {
      const holders = new Map<LockKey, Lock>();
      return {
        acquire: async (key, options) => {
          const lock = await sound.acquire(key, options);
          holders.set(key, lock);
          const release = lock.release.bind(lock);
          return Object.assign(lock, {
            release: async () => {
              if (!lock.held) await holders.get(key)?.[Symbol.asyncDispose]();
              await release();
            },
          });
        },
      };
    },
  ),
  mutantLock("a release keeps the lock", "a released key is free", (lock) => ({
    release: async () => lock.assertHeld(),
  })),
  mutantLock("disposal keeps the lock", "await using releases", () => ({
    [Symbol.asyncDispose]: async () => {},
  })),
  mutantLock("held is true after the release", handles, () => ({ held: true })),
  mutantLock("a release aborts the signal", handles, (lock) => {
    const aborting = new AbortController();
    return {
      signal: aborting.signal,
      release: async () => {
        aborting.abort();
        await lock.release();
      },
    };
  }),
  mutantLock("assertHeld never throws", handles, () => ({ assertHeld: () => {} })),
  mutantLock("a handle has the TTL in seconds", handles, (lock) => ({ ttl: lock.ttl / 1_000 })),
  ...["0", '"-1s"', "NaN", "Infinity", '"5"'].map((ttl) =>
    mutant(
      `the TTL ${ttl} is replaced by the default`,
      `the TTL ${ttl} is refused, and the key stays free`,
      (sound) => ({
        acquire: (key, options = {}) =>
          sound.acquire(key, options).catch((error) => {
            if (error.code !== "INVALID_TTL") throw error;
            const { ttl: _, ...rest } = options;
            return sound.acquire(key, rest);
          }),
      }),
    ),
  ),
  mutantLock("a refresh ignores a bad TTL", badRefresh, (lock) => ({
    refresh: (ttl) => lock.refresh(ttl).catch(() => {}),
  })),
  mutantLock("a bad TTL of a refresh ends the lock", badRefresh, (lock) => ({
    refresh: (ttl) =>
      lock.refresh(ttl).catch(async (error) => {
        await lock.release();
        throw error;
      }),
  })),
  mutantLock(
    "a refresh without a TTL sets the default",
    "a refresh keeps the TTL, or sets another one",
    (lock) => ({
      refresh: (ttl = "30s", options) => lock.refresh(ttl, options),
      get ttl() {
        return lock.ttl;
      },
    }),
  ),
  mutantLock(
    "a refresh doesn't look at its signal",
    "a refresh whose signal has aborted rejects with its reason, and the lock stays as it was",
    (lock) => ({ refresh: (ttl) => lock.refresh(ttl) }),
  ),
  mutant(
    "everybody is granted the lock",
    "a held key is refused, and tryAcquire returns undefined",
    (sound) => ({
      acquire: (key, options) => sound.acquire(`${key}:${Math.random()}`, options),
    }),
  ),
  mutant(
    "tryAcquire throws if the key is held",
    "a held key is refused, and tryAcquire returns undefined",
    (sound) => ({
      tryAcquire: (key, options) => sound.acquire(key, options),
    }),
  ),
  mutant(
    "racers that come in one turn all win",
    "of eight racers one wins, and the others are refused",
    (sound) => {
      let turn: Promise<Lock> | undefined;
      return {
        acquire: (key, options) => {
          turn ??= sound.acquire(key, options).finally(() => {
            turn = undefined;
          });
          return turn;
        },
      };
    },
  ),
  modes((_, held) => held.length > 0, "a shared holder excludes another one"),
  modes(
    (wanted, held) => wanted === "shared" && held.includes("exclusive"),
    "a writer is granted beside a reader",
  ),
  modes((wanted, held) => wanted === "exclusive" && held.length > 0, "a reader is granted beside a writer"),
  mutant("fencing tokens are all the same", tokens, (sound) => ({
    acquire: async (key, options) =>
      Object.defineProperty(await sound.acquire(key, options), "fencingToken", {
        value: options?.fencing ? 1n : undefined,
      }),
  })),
  mutantLock("a refresh gives another fencing token", tokens, (lock, { options }) => {
    let token = lock.fencingToken;
    return {
      get fencingToken() {
        return token;
      },
      refresh: async () => {
        await lock.refresh();
        if (options.fencing) token = (token ?? 0n) + 1n;
      },
    };
  }),
  mutant("a lock has a fencing token unasked", tokens, (sound) => ({
    acquire: (key, options) => sound.acquire(key, { ...options, fencing: true }),
  })),
  mutant("an aborted signal is ignored", aborted, (sound) => ({
    acquire: (key, { signal: _, ...options } = {}) => sound.acquire(key, options),
  })),
  mutant("an abort rejects with an error of the locker's", aborted, (sound) => ({
    acquire: (key, options) =>
      sound.acquire(key, options).catch((error) => {
        throw options?.signal?.aborted ? new Broken("aborted", { cause: error }) : error;
      }),
  })),
  mutant("tryAcquire returns undefined if its signal has aborted", aborted, (sound) => ({
    tryAcquire: async (key, options) =>
      options?.signal?.aborted ? undefined : await sound.tryAcquire(key, options),
  })),
  mutant("an abort leaves a lock behind", aborted, (sound) => ({
    acquire: async (key, { signal, ...options }: AcquireOptions = {}) => {
      const lock = await sound.acquire(key, options);
      if (signal?.aborted) throw signal.reason;
      return lock;
    },
  })),
  mutant(
    "an abort after the grant frees the lock",
    "a signal that aborts after the grant changes nothing",
    (sound) => ({
      acquire: async (key, options) => {
        const lock = await sound.acquire(key, options);
        options?.signal?.addEventListener("abort", () => void lock.release());
        return lock;
      },
    }),
  ),
  ...["tll", "mode", "autoRefresh", "fencing", "reentrant", "signal", "client", "holdAtLeast"].map((option) =>
    replaced(`acquire ignores a bad \`${option}\``, badOption, (sound) => ({
      acquire: (key, options = {}) =>
        sound.acquire(key, options).catch((error) => {
          if (error.field !== option) throw error;
          return sound.acquire(key, without(options, option));
        }),
    })),
  ),
  replaced("tryAcquire returns undefined for a bad option", badOption, (sound) => ({
    tryAcquire: (key, options) =>
      sound.tryAcquire(key, options).catch((error) => {
        if (error.code !== "INVALID_CONFIG") throw error;
        return undefined;
      }),
  })),
  replaced("options that are no object are none", badOption, (sound) => ({
    acquire: (key, options) => sound.acquire(key, typeof options === "object" ? options : undefined),
  })),
  ...methods
    .map((name) =>
      replaced(`${name} needs its object`, "the methods can be called without their object", (sound) => ({
        [name](this: object | undefined, ...given: unknown[]) {
          if (this === undefined) throw new Broken("no object");
          return (sound[name] as (...given: unknown[]) => unknown)(...given);
        },
      })),
    )
    .filter(({ does }) => !does.startsWith("withTransaction")),
  mutant("a ping is never answered", "a ping is answered", () => ({
    ping: () => delay(60_000, undefined, { ref: false }),
  })),
  mutant("ping ignores its signal", "a ping whose signal has aborted rejects with its reason", (sound) => ({
    ping: () => sound.ping(),
  })),
];
