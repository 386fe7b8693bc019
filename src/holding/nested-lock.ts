import { inspect } from "node:util";
import {
  InvalidConfigError,
  LockerClosedError,
  LockLostError,
  LockNotAcquiredError,
  LockNotHeldError,
} from "../contract/errors.ts";
import type { Lock, RefreshOptions } from "../contract/lock.ts";
import type { Duration, LockMode } from "../contract/locker.ts";
import type { LockScope } from "../contract/not-acquired-sentence.ts";
import type { Wanted } from "../waiting/attempt.ts";
import { lockAround, type Scope } from "../waiting/reentrancy.ts";
import { jsonOf, shownOf } from "./shown-lock.ts";

/**
 * Shares the lock that the `withLock` around the call holds.
 *
 *     held ── release() ──▶ released
 *      └── the outer lock is lost, or its function ends first ──▶ over
 *
 * @returns `undefined` if no such lock is held around the call, so that it has to be acquired
 * @throws (as a rejection) {LockNotAcquiredError} the outer lock is shared and this call wants it exclusively, or another call of the
 *   same function has it
 * @throws {InvalidConfigError} the call asks for something that the outer lock doesn't have
 */
export function takePart(owner: object, wanted: Wanted): Promise<NestedLock> | undefined {
  const around = lockAround(owner, wanted.id);
  return around?.scope === undefined ? undefined : enter(around.scope, around.by, wanted);
}

async function enter(scope: Scope, by: LockScope, wanted: Wanted): Promise<NestedLock> {
  const { key, mode } = wanted;
  const outer = scope.lock;
  if (outer.key !== key) {
    throw new LockNotAcquiredError({ key, reason: "id-collision", otherKey: outer.key });
  }
  if (outer.mode === "shared" && mode === "exclusive") {
    throw new LockNotAcquiredError({ key, reason: "held", ownHold: { by, isShared: true } });
  }
  if (wanted.fencing && outer.fencingToken === undefined) {
    const wants = `absent, or given to the \`${by}\` around this call`;
    throw new InvalidConfigError({ field: "fencing", got: true, wants });
  }
  if (wanted.holdAtLeast !== undefined) {
    const wants = `absent, or given to the \`${by}\` around this call, which releases the lock`;
    throw new InvalidConfigError({ field: "holdAtLeast", got: wanted.holdAtLeast, wants });
  }
  if (wanted.client !== undefined) {
    const wants = `absent: this call shares the lock of the \`${by}\` around it, on whichever session that is`;
    throw new InvalidConfigError({ field: "client", got: wanted.client, wants });
  }
  const ownHold = { by, isSibling: true };
  const leave = await scope.gate.enter({ ...wanted, ownHold, signals: [wanted.signal, wanted.alsoEndedBy] });
  if (!outer.held) {
    leave();
    const { reason } = outer.signal;
    if (reason instanceof LockLostError && reason.cause instanceof LockerClosedError) throw reason.cause;
    throw new LockNotAcquiredError({ key, reason: "held", ownHold: { by, isOver: true }, cause: reason });
  }
  return new NestedLock({ scope, by }, mode, leave);
}

/** The handle of a call that shares the lock of the `withLock` around it, which acquired the lock and will release it. */
export class NestedLock implements Lock {
  readonly mode: LockMode;
  readonly #scope: Scope;
  readonly #by: LockScope;
  readonly #leave: () => void;
  #state: "held" | "released" | "over" = "held";
  #controller: AbortController | undefined;
  /** What ended it, once it is over. */
  #cause: unknown;

  constructor({ scope, by }: { scope: Scope; by: LockScope }, mode: LockMode, leave: () => void) {
    this.#scope = scope;
    this.#by = by;
    this.mode = mode;
    this.#leave = leave;
    scope.onEnd.add(this.#onEnd);
    this.#outer.signal.addEventListener("abort", this.#onEnd, { once: true });
  }

  get #outer(): Lock {
    return this.#scope.lock;
  }

  get key(): string {
    return this.#outer.key;
  }

  get id(): bigint {
    return this.#outer.id;
  }

  get ttl(): number {
    return this.#outer.ttl;
  }

  get held(): boolean {
    return this.#state === "held" && this.#outer.held;
  }

  get expired(): boolean {
    return this.#state !== "released" && this.#outer.expired;
  }

  get expiresAt(): Date {
    return this.#outer.expiresAt;
  }

  get remaining(): number {
    return this.held ? this.#outer.remaining : 0;
  }

  get fencingToken(): bigint | undefined {
    return this.#outer.fencingToken;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#state === "over") this.#controller.abort(this.#reason());
    }
    return this.#controller.signal;
  }

  assertHeld(): void {
    if (this.#state !== "held") throw this.#notHeld();
    const because = this.#outersEnd();
    if (because !== undefined) throw because;
  }

  async refresh(ttl?: Duration, options?: RefreshOptions): Promise<void> {
    if (this.#state !== "held") throw this.#notHeld();
    await this.#outer.refresh(ttl, options).catch((error: unknown) => {
      throw this.#asOwn(error);
    });
  }

  async release(): Promise<void> {
    if (this.#state !== "held") throw this.#notHeld();
    this.#state = "released";
    this.#forget();
    const because = this.#outersEnd();
    if (because !== undefined) throw because;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch((error: unknown) => {
      if (!(error instanceof LockNotHeldError)) throw error;
    });
  }

  /** What `JSON.stringify` writes, with each `bigint` as a string. */
  toJSON(): object {
    return jsonOf(this);
  }

  /** What `console.log` shows. */
  [inspect.custom](_depth: unknown, options: object): string {
    return shownOf(this, options);
  }

  /** Does nothing: the outer lock is refreshed by its own holder. */
  stopRefreshing(): void {}

  readonly #onEnd = (): void => {
    if (this.#state !== "held") return;
    this.#state = "over";
    // A function that ends has held the lock until then, unless it released the lock itself.
    this.#cause =
      this.#outersEnd()?.cause ?? new Error(`the function of the \`${this.#by}\` around it has ended`);
    this.#forget();
    this.#controller?.abort(this.#reason());
  };

  #forget(): void {
    this.#scope.onEnd.delete(this.#onEnd);
    this.#outer.signal.removeEventListener("abort", this.#onEnd);
    this.#leave();
  }

  #reason(): unknown {
    const { signal, key } = this.#outer;
    return signal.aborted ? signal.reason : new LockLostError({ key, cause: this.#cause });
  }

  #notHeld(): LockNotHeldError {
    const { key } = this;
    if (this.#state === "released") return new LockNotHeldError({ key, reason: "released" });
    const lost = new LockNotHeldError({ key, reason: "lost", cause: this.#cause });
    return this.#outer.signal.aborted ? (this.#outersEnd() ?? lost) : lost;
  }

  /** Why the outer lock is not held; `undefined` if it is. */
  #outersEnd(): LockNotHeldError | undefined {
    try {
      this.#outer.assertHeld();
      return undefined;
    } catch (error) {
      return this.#asOwn(error) as LockNotHeldError;
    }
  }

  /** An error of the outer lock, for the holder of this one, which hasn't released anything itself. */
  #asOwn(error: unknown): unknown {
    if (!(error instanceof LockNotHeldError) || error.reason !== "released") return error;
    const cause = new Error(`the lock of the \`${this.#by}\` around it has been released`);
    return new LockNotHeldError({ key: this.key, reason: "lost", cause });
  }
}
