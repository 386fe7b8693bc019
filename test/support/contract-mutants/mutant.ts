import {
  type AcquireOptions,
  type Lock,
  type Locker,
  MemoryLocker,
  type MemoryLockerOptions,
  type TransactionLocker,
} from "../../../src/index.ts";
import type { LockerFixture } from "../../../src/testing/contract/fixture.ts";

/** A locker that breaks one promise. */
export interface Mutant {
  /** Its defect. */
  readonly does: string;
  /** The case of the contract that it fails. */
  readonly caughtBy: string;
  create(): Made;
}

/** What a case is run on. */
export interface Made extends LockerFixture {
  /** Ends the real locker, whatever the mutant's own `close` does. */
  end(): Promise<void>;
}

/** The error of a mutant that throws. */
export class Broken extends Error {}

/** The methods of a locker. */
export const methods = [
  "acquire",
  "tryAcquire",
  "acquireAll",
  "tryAcquireAll",
  "withLock",
  "tryWithLock",
  "withLocks",
  "withTransaction",
  "inspect",
  "isHeld",
  "elect",
  "ping",
  "close",
  "wrapWithLock",
  "namespace",
  "on",
  "semaphore",
] as const;

type Method = (typeof methods)[number];

/** The methods of a locker that keeps its promises. */
export type Sound = Pick<TransactionLocker, Method>;

export interface MutantOptions extends Pick<MemoryLockerOptions, "ttlEnforcement"> {
  readonly another?: (locker: MemoryLocker) => Locker;
}

/** Replaces methods of a `MemoryLocker`. */
export function mutant(
  does: string,
  caughtBy: string,
  change: (sound: Sound, locker: MemoryLocker) => Partial<TransactionLocker>,
  { another, ttlEnforcement = "server" }: MutantOptions = {},
): Mutant {
  const create = (): Made => {
    const locker = new MemoryLocker({ ttlEnforcement });
    // Its methods are own properties, and can be called without `this`.
    const sound = { ...locker } as unknown as Sound;
    const { close } = sound;
    const changed = change(sound, locker);
    if (changed.acquire !== undefined) Object.assign(locker, builtOn(locker));
    Object.assign(locker, changed);
    const durations = { brief: 30, spare: 200, patience: 1_000 };
    return {
      locker,
      durations,
      end: () => close(),
      ...(another !== undefined && { another: () => another(locker) }),
    };
  };
  return { does, caughtBy, create };
}

/** The methods that a locker builds on its `acquire`, built on the mutant's. */
function builtOn(locker: MemoryLocker): Pick<Locker, "tryAcquire" | "withLock"> {
  return {
    tryAcquire: (key, options) =>
      locker.acquire(key, options).catch((error) => {
        if (error.reason === "held" || error.reason === "wait-timeout") return undefined;
        throw error;
      }),
    withLock: async (key, fn, options) => {
      await using lock = await locker.acquire(key, { autoRefresh: true, ...options });
      return await fn(lock);
    },
  };
}

/** Changes what `acquire` returns, and so what all methods except `acquireAll` return. */
export function mutantLock(
  does: string,
  caughtBy: string,
  change: (lock: Lock, more: { sound: Sound; options: AcquireOptions }) => Partial<Lock>,
): Mutant {
  return mutant(does, caughtBy, (sound) => ({
    acquire: async (key, options = {}) => {
      const lock = await sound.acquire(key, options);
      return handle(lock, change(lock, { sound, options }));
    },
  }));
}

/** An object like another one, except for some members. */
export function handle<T extends object>(of: T, change: Partial<T>): T {
  return new Proxy(of, {
    get: (target, name) => {
      if (name in change) return Reflect.get(change, name, change);
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
}

/** The methods that take options, with the place of those among the arguments. */
const optionsAt = {
  acquire: 1,
  tryAcquire: 1,
  acquireAll: 1,
  tryAcquireAll: 1,
  inspect: 1,
  isHeld: 1,
  withLock: 2,
  tryWithLock: 2,
  withLocks: 2,
  wrapWithLock: 2,
  withTransaction: 2,
  elect: 1,
} as const;

export type WithOptions = keyof typeof optionsAt;

/** Changes the options of calls of one method. */
export function changedOptions(
  does: string,
  caughtBy: string,
  { method, change }: { method: WithOptions; change: (options: AcquireOptions) => AcquireOptions },
): Mutant {
  return mutant(does, caughtBy, (sound) => {
    const of = sound[method] as (...given: unknown[]) => unknown;
    const changed = (...given: unknown[]): unknown => {
      const at = optionsAt[method];
      return of(...given.slice(0, at), change((given[at] ?? {}) as AcquireOptions));
    };
    // The others go on as they were.
    const { tryAcquire, withLock } = sound;
    return { ...(method === "acquire" && { tryAcquire, withLock }), [method]: changed };
  });
}

/** Ignores an option of a method. */
export function ignored(method: WithOptions, option: string, caughtBy: string): Mutant {
  return changedOptions(`${method} ignores \`${option}\``, caughtBy, {
    method,
    change: (options) => without(options, option),
  });
}

/** Options without one of them. */
export function without(options: AcquireOptions, option: string): AcquireOptions {
  return Object.fromEntries(Object.entries(options).filter(([name]) => name !== option));
}

/** Replaces methods. The others go on as they were, even if `acquire` is replaced. */
export function replaced(
  does: string,
  caughtBy: string,
  change: (sound: Sound) => Partial<TransactionLocker>,
  options?: MutantOptions,
): Mutant {
  return mutant(
    does,
    caughtBy,
    (sound) => ({ tryAcquire: sound.tryAcquire, withLock: sound.withLock, ...change(sound) }),
    options,
  );
}

/** A second locker on the store of the first, whose `close` leaves the store open. */
export function onSameStore(sound: MemoryLocker, change: Partial<Locker> = {}): Locker {
  const close = async (): Promise<void> => {};
  // Its methods are own properties, and can be called without `this`.
  return { ...sound, ...change, close, [Symbol.asyncDispose]: close } as unknown as Locker;
}
