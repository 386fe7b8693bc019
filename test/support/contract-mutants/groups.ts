import { type AcquireOptions, type Lock, LockExpiredError, type LockGroup } from "../../../src/index.ts";
import { handle, ignored, type Mutant, mutant, replaced } from "./mutant.ts";

const takes =
  "acquireAll acquires every lock, returns them in the order of the keys, and releases them together";
const allOrNone = "acquireAll takes all or none";
const keeps = "acquireAll waits for each lock, and meanwhile keeps those that it has past their TTL";
const overlapping = "acquireAll with overlapping keys has no deadlock";
const misused = "acquireAll of no keys, or of one key twice, is refused";
const firstLost = "the signal of a group aborts with the first of its locks that is lost";
const aborted = "an acquireAll that is aborted holds nothing";
const tries = "tryAcquireAll takes all, or takes none and returns undefined; it throws any other failure";
const asked = "acquireAll and tryAcquireAll have the locks that their options ask for";
const oneReleased =
  "a group one of whose locks was released rejects, but still refreshes and releases the others";

/** A group of locks as a careless author would write it. */
function groupOf(locks: readonly Lock[], more: Partial<LockGroup> = {}): LockGroup {
  const first = new AbortController();
  for (const { signal } of locks) signal.addEventListener("abort", () => first.abort(signal.reason));
  const all = async (what: (lock: Lock) => PromiseLike<unknown>): Promise<void> => {
    await Promise.all(locks.map(what));
  };
  return {
    locks,
    get held() {
      return locks.every((lock) => lock.held);
    },
    get expiresAt() {
      return locks[0]?.expiresAt ?? new Date();
    },
    get remaining() {
      return locks[0]?.remaining ?? 0;
    },
    signal: first.signal,
    assertHeld: () => {
      for (const lock of locks) lock.assertHeld();
    },
    refresh: (ttl) => all((lock) => lock.refresh(ttl)),
    release: () => all((lock) => lock.release()),
    [Symbol.asyncDispose]: () => all((lock) => lock[Symbol.asyncDispose]()),
    ...more,
  };
}

const changed = (does: string, caughtBy: string, change: (group: LockGroup) => Partial<LockGroup>): Mutant =>
  mutant(does, caughtBy, (sound) => ({
    acquireAll: async (keys, options) => {
      const group = await sound.acquireAll(keys, options);
      return handle(group, change(group));
    },
  }));

/** Takes one key after the other; on failure, does what it is told with the locks that it has. */
const oneByOne = (
  does: string,
  caughtBy: string,
  {
    inOrder = (keys) => keys,
    options: changedOptions = (options) => options,
    onFailure = async (taken, error) => {
      for (const lock of taken) await lock.release();
      throw error;
    },
  }: {
    inOrder?: (keys: readonly string[]) => readonly string[];
    options?: (options: AcquireOptions) => AcquireOptions;
    onFailure?: (taken: readonly Lock[], error: unknown) => Promise<void>;
  } = {},
): Mutant =>
  mutant(does, caughtBy, (sound) => ({
    acquireAll: async (keys, options = {}) => {
      if (!Array.isArray(keys) || new Set(keys).size < Math.max(keys.length, 1))
        return await sound.acquireAll(keys);
      const taken: Lock[] = [];
      try {
        for (const key of inOrder(keys)) taken.push(await sound.acquire(key, changedOptions(options)));
      } catch (error) {
        await onFailure(taken, error);
      }
      return groupOf(taken);
    },
  }));

/** Mutants for several locks. */
export const groupMutants: readonly Mutant[] = [
  changed("the locks of a group are in the order of their keys", takes, ({ locks }) => ({
    locks: [...locks].sort((a, b) => (a.key < b.key ? -1 : 1)),
  })),
  changed("a group releases its first lock only", takes, ({ locks }) => ({
    release: async () => {
      await locks[0]?.release();
    },
  })),
  changed("a group refreshes its last lock only", takes, ({ locks }) => ({
    refresh: async (ttl) => {
      await locks.at(-1)?.refresh(ttl);
    },
  })),
  changed("a second release of a group is fine", takes, (group) => ({
    release: async () => {
      if (group.held) await group.release();
    },
  })),
  changed("disposal of a released group throws", takes, (group) => ({
    [Symbol.asyncDispose]: () => group.release(),
  })),
  oneByOne("acquireAll takes what it can get", allOrNone, { onFailure: async () => {} }),
  oneByOne("acquireAll keeps what it has got if another key is held", allOrNone, {
    onFailure: async (_, error) => {
      throw error;
    },
  }),
  oneByOne("each lock of a group has a wait of its own", allOrNone, {
    options: ({ wait, ...rest }) => ({ ...rest, ...(typeof wait === "number" && { wait: wait / 2 }) }),
  }),
  oneByOne("acquireAll lets lapse what it has while it waits", keeps, {
    inOrder: (keys) => keys,
  }),
  oneByOne("acquireAll takes the keys in the order given", overlapping, {
    options: (options) => ({ ...options, autoRefresh: true }),
  }),
  mutant("acquireAll of no key is an empty group", misused, (sound) => ({
    acquireAll: async (keys, options) =>
      keys.length === 0 ? groupOf([]) : await sound.acquireAll(keys, options),
  })),
  mutant("acquireAll accepts a key that is given twice", misused, (sound) => ({
    acquireAll: (keys, options) => sound.acquireAll(Array.isArray(keys) ? [...new Set(keys)] : keys, options),
  })),
  mutant("acquireAll of a string takes its letters", misused, (sound) => ({
    acquireAll: (keys, options) => sound.acquireAll(typeof keys === "string" ? [keys] : keys, options),
  })),
  changed("the signal of a group never aborts", firstLost, () => ({ signal: new AbortController().signal })),
  changed("the signal of a group aborts with the last of its locks", firstLost, ({ locks }) => {
    const last = new AbortController();
    locks
      .at(-1)
      ?.signal.addEventListener("abort", () => last.abort(new LockExpiredError({ key: "", ttl: 0 })));
    return { signal: last.signal };
  }),
  changed("a group is held if one of its locks is", firstLost, ({ locks }) => ({
    get held() {
      return locks.some((lock) => lock.held);
    },
  })),
  mutant("an abort of acquireAll leaves the wait for its locks behind", aborted, (sound) => ({
    acquireAll: async (keys, options = {}) => {
      const { signal, ...rest } = options;
      const waiting = sound.acquireAll(keys, rest);
      if (signal === undefined) return await waiting;
      return await new Promise<LockGroup>((resolve, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
        waiting.then(resolve, reject);
      });
    },
  })),
  replaced("tryAcquireAll throws if a key is held", tries, (sound) => ({ tryAcquireAll: sound.acquireAll })),
  replaced("tryAcquireAll ignores that there is no key", tries, (sound) => ({
    tryAcquireAll: (keys, options) =>
      sound.tryAcquireAll(keys, options).catch((error) => {
        if (error.field !== "keys") throw error;
        return undefined;
      }),
  })),
  replaced("tryAcquireAll returns undefined for a bad key", tries, (sound) => ({
    tryAcquireAll: (keys, options) =>
      sound.tryAcquireAll(keys, options).catch((error) => {
        if (error.code !== "EMPTY_KEY") throw error;
        return undefined;
      }),
  })),
  replaced("tryAcquireAll takes what it can get", tries, (sound) => ({
    tryAcquireAll: async (keys, options) => {
      const group = await sound.tryAcquireAll(keys, options);
      if (group !== undefined) return group;
      const locks = await Promise.all(keys.map((key) => sound.tryAcquire(key, options)));
      return groupOf(locks.filter((lock) => lock !== undefined));
    },
  })),
  replaced("tryAcquireAll keeps what it has got if another key is held", tries, (sound) => ({
    tryAcquireAll: async (keys, options) => {
      const group = await sound.tryAcquireAll(keys, options);
      if (group === undefined) for (const key of keys) await sound.tryAcquire(key);
      return group;
    },
  })),
  ...(["acquireAll", "tryAcquireAll"] as const).flatMap((method) => [
    ...["ttl", "mode", "fencing", "holdAtLeast", "tll"].map((option) => ignored(method, option, asked)),
    ignored(
      method,
      "autoRefresh",
      "acquireAll and tryAcquireAll keep their locks past the TTL with autoRefresh",
    ),
  ]),
  ...(
    [
      ["expiresAt of a group is that of its first lock", ({ locks }) => ({ expiresAt: locks[0]?.expiresAt })],
      [
        "expiresAt of a group is that of its last lock",
        ({ locks }) => ({ expiresAt: locks.at(-1)?.expiresAt }),
      ],
      ["remaining of a group is that of its first lock", ({ locks }) => ({ remaining: locks[0]?.remaining })],
      [
        "remaining of a group is that of its last lock",
        ({ locks }) => ({ remaining: locks.at(-1)?.remaining }),
      ],
      ["nothing ever remains of a group", () => ({ remaining: 0 })],
      ["something remains of a released group", (group) => ({ remaining: Math.max(group.remaining, 1) })],
    ] as ReadonlyArray<[string, (group: LockGroup) => object]>
  ).map(([does, read]) =>
    changed(does, "a group says when the first of its locks expires", (group) => ({
      get expiresAt() {
        return { expiresAt: group.expiresAt, ...read(group) }.expiresAt;
      },
      get remaining() {
        return { remaining: group.remaining, ...read(group) }.remaining;
      },
    })),
  ),
  changed("a group stops refreshing at a lock that was released", oneReleased, ({ locks }) => ({
    refresh: async (ttl) => {
      for (const lock of locks) await lock.refresh(ttl);
    },
  })),
  changed("a group stops releasing at a lock that was released", oneReleased, ({ locks }) => ({
    release: async () => {
      for (const lock of locks) await lock.release();
    },
  })),
  changed("a release of a group is fine if one lock was released", oneReleased, ({ locks }) => ({
    release: async () => {
      await Promise.all(locks.map((lock) => lock[Symbol.asyncDispose]()));
    },
  })),
  changed("a refresh of a group passes over a lock that was released", oneReleased, ({ locks }) => ({
    refresh: async (ttl) => {
      await Promise.all(locks.map(async (lock) => lock.held && (await lock.refresh(ttl))));
    },
  })),
  changed("assertHeld of a group looks at its first lock", oneReleased, ({ locks }) => ({
    assertHeld: () => locks[0]?.assertHeld(),
  })),
  changed("disposal of a group keeps its locks", "a group that is disposed of releases every lock", () => ({
    [Symbol.asyncDispose]: async () => {},
  })),
];
