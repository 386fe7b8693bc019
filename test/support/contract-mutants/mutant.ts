import {
  type AcquireOptions,
  type Lock,
  type Locker,
  MemoryLocker,
  type MemoryLockerOptions,
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

const methods = ["acquire", "tryAcquire", "acquireAll", "withLock", "tryWithLock", "ping", "close"] as const;

/** The methods of a locker that keeps its promises. */
export type Sound = Pick<Locker, (typeof methods)[number]>;

export interface MutantOptions extends Pick<MemoryLockerOptions, "ttlEnforcement"> {
  readonly another?: (locker: MemoryLocker) => Locker;
}

/** Replaces methods of a `MemoryLocker`. */
export function mutant(
  does: string,
  caughtBy: string,
  change: (sound: Sound, locker: MemoryLocker) => Partial<Locker>,
  { another, ttlEnforcement = "server" }: MutantOptions = {},
): Mutant {
  const create = (): Made => {
    const locker = new MemoryLocker({ ttlEnforcement });
    const { acquire, tryAcquire, acquireAll, withLock, tryWithLock, ping, close } = locker;
    const sound: Sound = { acquire, tryAcquire, acquireAll, withLock, tryWithLock, ping, close };
    const changed = change(sound, locker);
    if (changed.acquire !== undefined) Object.assign(locker, builtOn(locker));
    Object.assign(locker, changed);
    for (const name of methods) {
      const method = locker[name] as (...given: unknown[]) => Promise<unknown>;
      const heard = function (this: unknown, ...given: unknown[]): Promise<unknown> {
        const answer = method.apply(this, given);
        // A case that has already failed looks at no other answer.
        answer.catch(() => {});
        return answer;
      };
      Object.assign(locker, { [name]: heard });
    }
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
