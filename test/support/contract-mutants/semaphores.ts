import { setTimeout as delay } from "node:timers/promises";
import type { LockKey } from "../../../src/contract/lock-key.ts";
import type { Lock, PermitOptions, Semaphore } from "../../../src/index.ts";
import { handle, type Mutant, replaced, type Sound } from "./mutant.ts";

const grants = "a semaphore grants as many permits as it has, and another when one is released";
const independent = "a semaphore is independent of the lock of its key, and of other semaphores";
const ordered = "callers that wait for a permit get one in the order in which they came";
const waits = "a wait for a permit that runs out rejects, and one that is aborted rejects with the reason";
const runs =
  "withPermit and tryWithPermit run their function with a permit, and release it whatever the function does";
const inside =
  "an unbounded wait inside withPermit, for a semaphore all of whose permits it holds, is refused at once";
const past = "withPermit and tryWithPermit keep their permit past its TTL";
const lapsing = "withPermit rejects as soon as its permit lapses, whatever its function does";
const numbers = "a number of permits other than the holders' is refused, as long as there are holders";
const refused = "a semaphore refuses an invalid key or number of permits, and an unknown option";

type Methods = Partial<Omit<Semaphore, "key" | "permits">>;

/** Changes the semaphores of a locker. */
const changed = (
  does: string,
  caughtBy: string,
  change: (semaphore: Semaphore, sound: Sound) => Partial<Semaphore>,
): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    semaphore: (key, permits) => {
      const semaphore = sound.semaphore(key, permits);
      return handle(semaphore, change(semaphore, sound));
    },
  }));

/** Changes how a semaphore is made. */
const made = (does: string, caughtBy: string, make: (sound: Sound) => Sound["semaphore"]): Mutant =>
  replaced(does, caughtBy, (sound) => ({ semaphore: make(sound) }));

/** Changes the handles of permits. */
const permit = (does: string, caughtBy: string, change: (lock: Lock) => Partial<Lock>): Mutant =>
  changed(does, caughtBy, ({ acquire, tryAcquire }) => ({
    acquire: async (options) => {
      const lock = await acquire(options);
      return handle(lock, change(lock));
    },
    tryAcquire: async (options) => {
      const lock = await tryAcquire(options);
      return lock && handle(lock, change(lock));
    },
  }));

const without = (options: PermitOptions | undefined, name: keyof PermitOptions): PermitOptions => {
  const { [name]: _, ...rest } = options ?? {};
  return rest;
};

/** Ignores an option of a method. */
const ignored = (
  method: "acquire" | "tryAcquire" | "withPermit" | "tryWithPermit",
  option: keyof PermitOptions,
  caughtBy: string,
): Mutant =>
  changed(`${method} of a semaphore ignores \`${option}\``, caughtBy, (semaphore) => ({
    [method]: (...given: unknown[]) => {
      const at = method.startsWith("with") || method === "tryWithPermit" ? 1 : 0;
      const of = semaphore[method] as (...given: unknown[]) => unknown;
      return of(...given.slice(0, at), without(given[at] as PermitOptions, option));
    },
  }));

/** Runs the function with a permit, as a careless author would write it. */
const careless = ({ acquire }: Semaphore): Methods => ({
  withPermit: async (fn, options) => {
    const lock = await acquire(options);
    try {
      return await fn(lock);
    } finally {
      await lock[Symbol.asyncDispose]();
    }
  },
});

/** Mutants for semaphores. */
export const semaphoreMutants: readonly Mutant[] = [
  made("a semaphore has no bound", grants, (sound) => (key) => {
    const semaphore = sound.semaphore(key, 1_000);
    return handle(semaphore, { permits: 2 });
  }),
  made(
    "a semaphore has one permit more",
    grants,
    (sound) => (key, permits) => handle(sound.semaphore(key, permits + 1), { permits }),
  ),
  made(
    "a semaphore has one permit less",
    grants,
    (sound) => (key, permits) => handle(sound.semaphore(key, Math.max(permits - 1, 1)), { permits }),
  ),
  made(
    "each semaphore has permits of its own",
    grants,
    (sound) => (key, permits) =>
      handle(sound.semaphore(`${key}:${Math.random()}`, permits), { key: `${key}` }),
  ),
  permit("a release of a permit keeps it", grants, () => ({ release: async () => {}, held: false })),
  permit("a permit can be released twice", grants, (lock) => ({
    release: () => (lock.held ? lock.release() : Promise.resolve()),
  })),
  permit("all permits have one id", grants, () => ({ id: 1n })),
  permit("a permit is held after its release", grants, () => ({ held: true })),
  permit("a permit has another key", grants, ({ id }) => ({ key: `${id}` })),
  ignored("acquire", "ttl", grants),
  changed("tryAcquire of a semaphore throws if all permits are held", grants, ({ acquire }) => ({
    tryAcquire: acquire,
  })),
  made(
    "a semaphore takes the lock of its key",
    independent,
    (sound) => (key, permits) =>
      handle(sound.semaphore(key, permits), { acquire: (options) => sound.acquire(key, options) }),
  ),
  made(
    "all semaphores share their permits",
    independent,
    (sound) => (key, permits) => handle(sound.semaphore("all", permits), { key: `${key}` }),
  ),
  replaced("two lockers share no permits", "two lockers share the permits of a semaphore", () => ({}), {
    another: (locker) =>
      ({
        ...locker,
        semaphore: (key: string, permits: number) => locker.semaphore(`${key}:own`, permits),
        close: async () => {},
      }) as unknown as typeof locker,
  }),
  changed("the last to wait for a permit is served first", ordered, ({ acquire, withPermit }) => {
    const stack: Array<() => void> = [];
    return {
      acquire: async (options) => {
        const lock = await acquire(options);
        return handle(lock, {
          release: async () => {
            await lock.release();
            stack.pop()?.();
          },
        });
      },
      withPermit: async (fn, options) => {
        await new Promise<void>((resolve) => stack.push(resolve));
        const value = await withPermit(fn, options);
        stack.pop()?.();
        return value;
      },
    };
  }),
  ignored("acquire", "wait", waits),
  changed("tryAcquire of a semaphore throws if its wait has passed", waits, ({ acquire, tryAcquire }) => ({
    tryAcquire: (options) => (options?.wait === undefined ? tryAcquire(options) : acquire(options)),
  })),
  ignored("withPermit", "signal", waits),
  ignored("withPermit", "wait", ordered),
  changed("withPermit runs its function without a permit", runs, () => ({
    withPermit: async (fn) => await fn({ held: true } as Lock),
  })),
  changed("tryWithPermit runs its function without a permit", runs, () => ({
    tryWithPermit: async (fn) => ({ acquired: true, value: await fn({ held: true } as Lock) }),
  })),
  changed("withPermit keeps its permit if its function fails", runs, ({ acquire }) => ({
    withPermit: async (fn, options) => {
      const lock = await acquire(options);
      const value = await fn(lock);
      await lock.release();
      return value;
    },
  })),
  changed("tryWithPermit keeps its permit if its function fails", runs, ({ tryAcquire }) => ({
    tryWithPermit: async (fn, options) => {
      const lock = await tryAcquire(options);
      if (lock === undefined) return { acquired: false };
      const value = await fn(lock);
      await lock.release();
      return { acquired: true, value };
    },
  })),
  changed("tryWithPermit throws if all permits are held", runs, ({ withPermit }) => ({
    tryWithPermit: async (fn, options) => ({ acquired: true, value: await withPermit(fn, options) }),
  })),
  changed("tryWithPermit swallows the error of its function", runs, ({ tryWithPermit }) => ({
    tryWithPermit: (fn, options) => tryWithPermit(fn, options).catch(() => ({ acquired: false }) as const),
  })),
  changed("withPermit resolves with nothing", runs, ({ withPermit }) => ({
    withPermit: async (fn, options) => {
      await withPermit(fn, options);
      return undefined as never;
    },
  })),
  changed("a wait inside withPermit is waited", inside, careless),
  ...(["withPermit", "tryWithPermit"] as const).map((method) =>
    changed(`${method} doesn't refresh`, past, (semaphore) => ({
      [method]: (fn: (lock: Lock) => unknown, options?: PermitOptions) =>
        semaphore[method](fn, { ...options, autoRefresh: false }),
    })),
  ),
  changed("withPermit waits for its function, though the permit has lapsed", lapsing, careless),
  ignored("acquire", "holdAtLeast", "a permit with holdAtLeast keeps its place after an early release"),
  changed(
    "a release of a permit with holdAtLeast takes as long",
    "a permit with holdAtLeast keeps its place after an early release",
    ({ acquire }) => ({
      acquire: async (options) => {
        const lock = await acquire(options);
        return handle(lock, { release: () => delay(60_000, undefined, { ref: false }) });
      },
    }),
  ),
  made(
    "a semaphore takes another number of permits",
    numbers,
    (sound) => (key, permits) => handle(sound.semaphore(`${key}:${permits}`, permits), { key: `${key}` }),
  ),
  made("a semaphore has its number of permits for ever", numbers, (sound) => {
    const first = new Map<LockKey, number>();
    return (key, permits) => {
      if (!first.has(key)) first.set(key, permits);
      if (first.get(key) === permits) return sound.semaphore(key, permits);
      // What a number that differs from that of the holders is refused with.
      const { acquire, tryAcquire } = sound.semaphore(key, permits);
      const refuse = async (): Promise<never> => {
        const holder = await sound.semaphore(key, first.get(key) ?? 1).acquire();
        try {
          return (await acquire()) as never;
        } finally {
          await holder.release();
        }
      };
      return handle(sound.semaphore(key, permits), {
        acquire: refuse,
        tryAcquire: first.size > 1 ? tryAcquire : refuse,
      });
    };
  }),
  ...["", 42].map((bad) =>
    made(
      `a semaphore takes the key ${JSON.stringify(bad)}`,
      refused,
      (sound) => (key, permits) => sound.semaphore(key === bad ? "key" : key, permits),
    ),
  ),
  ...[0, -1, 1.5, 1_001, Number.NaN, "2"].map((bad) =>
    made(
      `a semaphore takes ${bad} permits`,
      refused,
      (sound) => (key, permits) => sound.semaphore(key, Object.is(permits, bad) ? 1 : permits),
    ),
  ),
  changed("a permit may have a mode", refused, ({ acquire }) => ({
    acquire: (options) => acquire(without(options, "mode" as keyof PermitOptions)),
  })),
  changed("a permit may have a TTL of 0", refused, ({ acquire }) => ({
    acquire: (options) => acquire(options?.ttl === 0 ? without(options, "ttl") : options),
  })),
  changed("withPermit takes what is no function", refused, ({ withPermit }) => ({
    withPermit: (fn, options) => withPermit(fn ?? (() => undefined as never), options),
  })),
];
