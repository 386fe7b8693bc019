import type { LockKey } from "../contract/lock-key.ts";
import type { AcquireOptions, Locker } from "../contract/locker.ts";
import type { UnderLock } from "../contract/under-lock.ts";

/** Makes a function that runs `fn` under a lock each time it is called: see `locker.wrapWithLock`. */
export function wrappedFunction<F extends (this: never, ...args: never[]) => unknown>(
  withLock: Locker["withLock"],
  wrapped: {
    readonly key: LockKey | ((...args: Parameters<F>) => LockKey);
    readonly fn: F;
    readonly options: AcquireOptions;
  },
): UnderLock<F> {
  const { key, fn, options } = wrapped;
  async function underLock(this: ThisParameterType<F>, ...args: Parameters<F>): ReturnType<UnderLock<F>> {
    const name = typeof key === "function" ? key(...args) : key;
    const run = () => Reflect.apply(fn, this, args) as Awaited<ReturnType<F>>;
    return await withLock(name, run, options);
  }
  for (const property of ["name", "length"] as const) {
    Object.defineProperty(underLock, property, { value: fn[property], configurable: true });
  }
  return underLock;
}
