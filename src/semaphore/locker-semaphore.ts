import { inspect } from "node:util";
import type { Lock } from "../contract/lock.ts";
import type { CheckedDefaults } from "../contract/lock-defaults.ts";
import type { TryResult } from "../contract/locker.ts";
import {
  assertPermitOptions,
  assertPermitScope,
  type PermitOptions,
  type Semaphore,
} from "../contract/semaphore.ts";
import { bindMethods } from "../runtime/bound-methods.ts";
import { undefinedIfContended } from "../waiting/contention.ts";
import { runUnder } from "../waiting/reentrancy.ts";

interface LockerSemaphoreParts {
  readonly key: string;
  readonly permits: number;
  /** The object that identifies the locker to functions that run under its locks. */
  readonly owner: object;
  /** The locker's defaults. */
  readonly defaults: CheckedDefaults;
  /** Acquires a permit. `options` have been checked. */
  acquire(options: PermitOptions): Promise<Lock>;
}

export class LockerSemaphore implements Semaphore {
  readonly key: string;
  readonly permits: number;
  readonly #parts: LockerSemaphoreParts;

  constructor(parts: LockerSemaphoreParts) {
    this.key = parts.key;
    this.permits = parts.permits;
    this.#parts = parts;
    // Makes `const { withPermit } = semaphore` work.
    bindMethods(this, ["acquire", "tryAcquire", "withPermit", "tryWithPermit"]);
  }

  async acquire(options?: PermitOptions): Promise<Lock> {
    return await this.#parts.acquire(assertPermitOptions(options));
  }

  tryAcquire(options?: PermitOptions): Promise<Lock | undefined> {
    return this.acquire(options).catch(undefinedIfContended);
  }

  async withPermit<T>(fn: (permit: Lock) => T | Promise<T>, options?: PermitOptions): Promise<T> {
    const permit = await this.acquire(assertPermitScope(fn, options, this.#parts.defaults));
    return await runUnder({ owner: this.#parts.owner, by: "withPermit", locks: [permit] }, permit, fn);
  }

  async tryWithPermit<T>(
    fn: (permit: Lock) => T | Promise<T>,
    options?: PermitOptions,
  ): Promise<TryResult<T>> {
    const permit = await this.tryAcquire(assertPermitScope(fn, options, this.#parts.defaults));
    if (permit === undefined) return { acquired: false };
    return {
      acquired: true,
      value: await runUnder({ owner: this.#parts.owner, by: "withPermit", locks: [permit] }, permit, fn),
    };
  }

  /** What `console.log` shows. */
  [inspect.custom](_depth: unknown, options: object): string {
    const { key, permits } = this;
    return `Semaphore ${inspect({ key, permits }, options)}`;
  }
}
