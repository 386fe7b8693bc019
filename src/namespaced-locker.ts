import { inspect } from "node:util";
import { InvalidConfigError } from "./contract/errors.ts";
import { keyText } from "./contract/lock-id.ts";
import type { LockKey } from "./contract/lock-key.ts";
import type { Locker } from "./contract/locker.ts";
import type { NamespacedLocker } from "./contract/namespaced-locker.ts";
import type { NamespacedTransactionLocker, TransactionLocker } from "./contract/transaction-locker.ts";

/** A locker that adds a prefix to every key and passes everything else to its parent. */
export class PrefixedLocker<L extends Omit<Locker, "close" | typeof Symbol.asyncDispose>>
  implements NamespacedLocker
{
  readonly #parent: L;
  readonly #prefix: string;

  /** Makes the prefix from `name` and `:`. @throws {EmptyKeyError} @throws {InvalidKeyError} */
  constructor(parent: L, name: string) {
    if (typeof name !== "string")
      throw new InvalidConfigError({ field: "name", got: name, wants: "a string" });
    this.#parent = parent;
    this.#prefix = `${keyText(name)}:`;
  }

  protected get parent(): L {
    return this.#parent;
  }

  readonly acquire: Locker["acquire"] = async (key, options) =>
    this.parent.acquire(this.prefixed(key), options);

  readonly tryAcquire: Locker["tryAcquire"] = async (key, options) =>
    this.parent.tryAcquire(this.prefixed(key), options);

  readonly acquireAll: Locker["acquireAll"] = async (keys, options) =>
    this.parent.acquireAll(this.#all(keys), options);

  readonly tryAcquireAll: Locker["tryAcquireAll"] = async (keys, options) =>
    this.parent.tryAcquireAll(this.#all(keys), options);

  readonly withLock: Locker["withLock"] = async (key, fn, options) =>
    this.parent.withLock(this.prefixed(key), fn, options);

  readonly tryWithLock: Locker["tryWithLock"] = async (key, fn, options) =>
    this.parent.tryWithLock(this.prefixed(key), fn, options);

  readonly withLocks: Locker["withLocks"] = async (keys, fn, options) =>
    this.parent.withLocks(this.#all(keys), fn, options);

  readonly wrapWithLock: Locker["wrapWithLock"] = (key, fn, options) => {
    if (typeof key !== "function") return this.parent.wrapWithLock(this.prefixed(key), fn, options);
    return this.parent.wrapWithLock((...args) => this.prefixed(key(...args)), fn, options);
  };

  readonly inspect: Locker["inspect"] = async (key, options) =>
    this.parent.inspect(this.prefixed(key), options);

  readonly isHeld: Locker["isHeld"] = async (key, options) => this.parent.isHeld(this.prefixed(key), options);

  /** Adds a listener for the events of locks whose keys have the prefix, and of all sessions. */
  readonly on: Locker["on"] = (event, listener) => {
    // The parent refuses a listener that isn't a function.
    if (typeof listener !== "function") return this.parent.on(event, listener);
    // Returns what the listener returns: a promise that rejects is passed over as an error is.
    return this.parent.on(event, (told) =>
      !("key" in told) || told.key.startsWith(this.#prefix) ? listener(told) : undefined,
    );
  };

  readonly elect: Locker["elect"] = async (key, options) => this.parent.elect(this.prefixed(key), options);

  readonly semaphore: Locker["semaphore"] = (key, permits) =>
    this.parent.semaphore(this.prefixed(key), permits);

  readonly ping: Locker["ping"] = (options) => this.parent.ping(options);

  namespace(name: string): NamespacedLocker {
    return new PrefixedLocker(this, name);
  }

  protected prefixed(key: LockKey): LockKey {
    return prefixedKey(this.#prefix, key);
  }

  /** What `JSON.stringify` writes. */
  toJSON(): object {
    return { prefix: this.#prefix };
  }

  /** What `console.log` shows. */
  [inspect.custom](_depth: unknown, options: object): string {
    const shown = { prefix: this.#prefix, locker: this.#parent };
    return `NamespacedLocker ${inspect(shown, options)}`;
  }

  #all(keys: readonly LockKey[]): readonly LockKey[] {
    // The parent refuses `keys` that isn't an array.
    return Array.isArray(keys) ? keys.map((key) => this.prefixed(key)) : keys;
  }
}

export class PrefixedTransactionLocker
  extends PrefixedLocker<NamespacedLocker & Pick<TransactionLocker, "withTransaction">>
  implements NamespacedTransactionLocker
{
  readonly withTransaction: TransactionLocker["withTransaction"] = async (key, fn, options) =>
    this.parent.withTransaction(this.prefixed(key), fn, options);

  override namespace(name: string): NamespacedTransactionLocker {
    return new PrefixedTransactionLocker(this, name);
  }
}

/** Puts an ASCII prefix in front of a key. @throws {EmptyKeyError} @throws {InvalidKeyError} */
function prefixedKey(prefix: string, key: LockKey): LockKey {
  const text = keyText(key);
  return text.isWellFormed()
    ? prefix + text
    : Buffer.concat([Buffer.from(prefix, "utf8"), key as Uint8Array]);
}
