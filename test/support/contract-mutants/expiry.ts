import { type Duration, type Lock, LockExpiredError } from "../../../src/index.ts";
import { handle, type Mutant, mutant, mutantLock, type Sound } from "./mutant.ts";

const lapses = "a lock that lapses aborts its signal, and is not held";
const refreshOfLapsed = "the refresh of a lapsed lock rejects as expired";

/** Mutants for the TTL. */
export const expiryMutants: readonly Mutant[] = [
  mutantLock("a refresh changes nothing", "a refreshed lock outlives its first TTL", () => ({
    refresh: async () => {},
  })),
  mutant(
    "a refresh changes what the handle says, not the lock",
    "a refreshed lock outlives its first TTL",
    (sound) => ({
      acquire: async (key, options) => {
        const lock = await sound.acquire(key, options);
        let ttl: number | undefined;
        return Object.defineProperties(lock, {
          refresh: {
            value: async () => {
              ttl = 60_000;
            },
          },
          ttl: { get: () => ttl ?? 30_000 },
          held: { get: () => true },
          expired: { get: () => false },
        });
      },
    }),
  ),
  mutant(
    "autoRefresh is ignored",
    "autoRefresh keeps a lock past its TTL, until it is released",
    (sound) => ({
      acquire: (key, options) => sound.acquire(key, { ...options, autoRefresh: false }),
    }),
  ),
  mutantLock(
    "a released lock expires",
    "the signal stays quiet after a release, also past the TTL",
    (lock) => {
      const late = new AbortController();
      setTimeout(() => late.abort(new LockExpiredError(lock)), lock.ttl).unref();
      return { signal: late.signal };
    },
  ),
  ...(
    [
      ["remaining is less than nothing", () => ({ remaining: -1 })],
      ["remaining is the TTL", ({ ttl }) => ({ remaining: ttl })],
      ["remaining is that of the grant", ({ remaining }) => ({ remaining })],
      ["remaining is in seconds", (lock) => ({ remaining: lock.remaining / 1_000 })],
      [
        "remaining goes on after the release",
        (lock) => ({
          get remaining() {
            return lock.held ? lock.remaining : 1;
          },
        }),
      ],
      ["expiresAt is a number", (lock) => ({ expiresAt: lock.expiresAt.getTime() as unknown as Date })],
      ["expiresAt is the time of the grant", () => ({ expiresAt: new Date() })],
      ["expiresAt is that of the grant", ({ expiresAt }) => ({ expiresAt })],
      [
        "expiresAt changes after the release",
        (lock) => ({
          get expiresAt() {
            return new Date(Date.now() + lock.remaining);
          },
        }),
      ],
    ] as ReadonlyArray<[string, (lock: Lock) => Partial<Lock>]>
  ).map(([does, change]) =>
    mutantLock(does, "a handle says until when its holder may rely on the lock", change),
  ),
  mutantLock(
    "a refresh without a TTL does nothing",
    "a refresh without a TTL starts the same TTL again",
    (lock) => ({
      refresh: async (ttl, options) => {
        if (ttl !== undefined) await lock.refresh(ttl, options);
        lock.assertHeld();
      },
    }),
  ),
  mutantLock("something remains of a lapsed lock", lapses, (lock) => ({
    get remaining() {
      return Math.max(lock.remaining, 1);
    },
  })),
  mutantLock("the signal never aborts", lapses, () => ({ signal: new AbortController().signal })),
  mutantLock("held stays true after the TTL", lapses, (lock) => {
    let isReleased = false;
    return {
      get held() {
        return !isReleased;
      },
      release: () => {
        isReleased = true;
        return lock.release();
      },
    };
  }),
  mutantLock("a lock that has lapsed was merely released", lapses, () => ({ expired: false })),
  mutant("the TTL is ignored", lapses, (sound) => ({
    acquire: (key, options) => sound.acquire(key, { ...options, ttl: "1h" }),
  })),
  mutantLock("the signal aborts without a reason of ours", lapses, (lock) => {
    const late = new AbortController();
    lock.signal.addEventListener("abort", () => late.abort());
    return { signal: late.signal };
  }),
  mutantLock(
    "the release of a lapsed lock is fine",
    "the release of a lapsed lock rejects as expired, and frees the key",
    (lock) => ({
      release: () => (lock.expired ? Promise.resolve() : lock.release()),
    }),
  ),
  keeper(
    "the release of a lapsed lock keeps it",
    "the release of a lapsed lock rejects as expired, and frees the key",
  ),
  keeper(
    "the disposal of a lapsed lock keeps it",
    "the disposal of a lapsed lock doesn't throw, and frees the key",
  ),
  keeper("a lapsed lock goes to nobody", "a lapsed lock goes to the next caller"),
  keeper("a waiter isn't granted a lock that lapses", "a waiter gets a lock that lapses"),
  keeper(
    "a waiter isn't granted a lock that lapsed, after its release",
    "a waiter gets a lapsed lock when it is released",
  ),
  mutantLock("a refresh of a lapsed lock is fine", refreshOfLapsed, (lock) => ({
    refresh: (ttl) => (lock.expired ? Promise.resolve() : lock.refresh(ttl)),
  })),
  mutant("a refresh revives a lapsed lock", refreshOfLapsed, (sound) => ({
    acquire: async (key, options) => {
      let lock = await sound.acquire(key, options);
      const current = (): Lock => lock;
      return new Proxy(lock, {
        get: (_, name) => {
          if (name === "refresh") {
            return async (ttl?: Duration) => {
              if (lock.expired) lock = await sound.acquire(key, ttl === undefined ? {} : { ttl });
              else await lock.refresh(ttl);
            };
          }
          const member: unknown = Reflect.get(current(), name, current());
          return typeof member === "function" ? member.bind(current()) : member;
        },
      });
    },
  })),
  mutantLock(
    "the disposal of a lapsed lock throws",
    "the disposal of a lapsed lock doesn't throw, and frees the key",
    (lock) => ({
      [Symbol.asyncDispose]: () => lock.release(),
    }),
  ),
];

/** Keeps a lapsed lock for ever, whatever its holder does. */
function keeper(does: string, caughtBy: string): Mutant {
  const change = (sound: Sound): Pick<Sound, "acquire"> => ({
    acquire: async (key, options) => {
      const lock = await sound.acquire(key, options);
      const give = async (): Promise<void> => {
        if (lock.expired) lock.assertHeld();
        await lock.release();
      };
      return handle(lock, {
        release: give,
        refresh: give,
        [Symbol.asyncDispose]: () => give().catch(() => {}),
      });
    },
  });
  return mutant(does, caughtBy, change, { ttlEnforcement: "client" });
}
