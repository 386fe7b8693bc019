import { assertWait } from "../contract/acquire-options.ts";
import type { SessionClient } from "../contract/clients.ts";
import { holdAtLeastOf } from "../contract/hold-at-least.ts";
import { keyText } from "../contract/lock-id.ts";
import type { LockKey } from "../contract/lock-key.ts";
import type { AcquireOptions, Locker } from "../contract/locker.ts";
import type { UnderLock } from "../contract/under-lock.ts";

/** The parts of a locker that a wrapped function uses. */
interface WrappingLocker {
  readonly withLock: Locker["withLock"];
  assertTtl(got: unknown): number;
  storeOn(client: SessionClient): unknown;
}

/**
 * Makes a function that runs `fn` under a lock each time it is called: see `locker.wrapWithLock`. Checks at once what each call checks: the
 * functions are often made when a program starts, and called much later.
 *
 * @throws {InvalidConfigError} {InvalidTtlError} {EmptyKeyError} {InvalidKeyError}
 */
export function wrappedFunction<F extends (this: never, ...args: never[]) => unknown>(
  locker: WrappingLocker,
  wrapped: {
    readonly key: LockKey | ((...args: Parameters<F>) => LockKey);
    readonly fn: F;
    readonly options: AcquireOptions;
  },
): UnderLock<F> {
  const { key, fn, options } = wrapped;
  if (typeof key !== "function") keyText(key);
  if (options.ttl !== undefined) locker.assertTtl(options.ttl);
  assertWait(options.wait);
  holdAtLeastOf(options);
  if (options.client !== undefined) locker.storeOn(options.client);
  async function underLock(this: ThisParameterType<F>, ...args: Parameters<F>): ReturnType<UnderLock<F>> {
    const name = typeof key === "function" ? key(...args) : key;
    const run = () => Reflect.apply(fn, this, args) as Awaited<ReturnType<F>>;
    return await locker.withLock(name, run, options);
  }
  for (const property of ["name", "length"] as const) {
    Object.defineProperty(underLock, property, { value: fn[property], configurable: true });
  }
  return underLock;
}
