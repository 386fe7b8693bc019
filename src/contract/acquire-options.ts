import type { TransactionOptions } from "./clients.ts";
import { milliseconds } from "./duration.ts";
import { InvalidConfigError, InvalidTtlError } from "./errors.ts";
import { keyText } from "./lock-id.ts";
import type { LockKey } from "./lock-key.ts";
import type { AbortSignalLike, AcquireOptions, LockMode } from "./locker.ts";

const modes: readonly LockMode[] = ["exclusive", "shared"];
const acquireOptions = [
  "ttl",
  "wait",
  "mode",
  "signal",
  "autoRefresh",
  "fencing",
  "reentrant",
  "client",
  "holdAtLeast",
];
const transactionOptions = ["ttl", "wait", "mode", "signal", "client"];

/** The options of a call without any. */
export const noOptions: AcquireOptions = {};

/**
 * Checks the options of an acquire. An unknown name throws, because a misspelt option would be ignored: with `{ tll: "1h" }`, the lock
 * of a long job would expire while the job runs.
 *
 * @throws {InvalidConfigError} names the option
 */
export function assertAcquireOptions(options: unknown, known = acquireOptions): AcquireOptions {
  assertKnown(options, known);
  const { mode, signal, autoRefresh, fencing, reentrant } = options as AcquireOptions;
  if (mode !== undefined && !modes.includes(mode)) {
    throw new InvalidConfigError({ field: "mode", got: mode, wants: '"exclusive" or "shared"' });
  }
  assertBoolean("autoRefresh", autoRefresh);
  assertBoolean("fencing", fencing);
  assertBoolean("reentrant", reentrant);
  assertSignal(signal);
  if (known === acquireOptions) assertSessionClient((options as AcquireOptions).client);
  return options;
}

/** Checks the options of `withTransaction`. @throws {InvalidConfigError} names the option */
export function assertTransactionOptions(options: unknown): TransactionOptions {
  const checked: TransactionOptions = assertAcquireOptions(options, transactionOptions);
  const { client } = checked;
  if (client !== undefined && typeof client?.query !== "function") {
    const wants = "a client with a method `query`, of node-postgres or made by `pg-locker/orm`";
    throw new InvalidConfigError({ field: "client", got: client, wants });
  }
  return checked;
}

/**
 * Checks the options of `withLock`, whose lock refreshes itself unless told otherwise. Checks the function too, so that no session is
 * reserved for something that can't be called.
 *
 * @throws {InvalidConfigError} names the option
 */
export function assertScope(
  fn: unknown,
  options: unknown,
  { autoRefresh = true }: { autoRefresh?: boolean | undefined } = {},
  known = acquireOptions,
): AcquireOptions {
  assertFunction(fn);
  const checked = options === undefined ? {} : assertAcquireOptions(options, known);
  return { ...checked, autoRefresh: checked.autoRefresh ?? autoRefresh };
}

/** Checks that `fn` can be called. @throws {InvalidConfigError} */
export function assertFunction(fn: unknown): void {
  if (typeof fn !== "function") throw new InvalidConfigError({ field: "fn", got: fn, wants: "a function" });
}

/** @throws {InvalidConfigError} it is no object, or has another field than these */
function assertKnown(options: unknown, known: readonly string[]): asserts options is object {
  assertObject(options);
  for (const field of Object.keys(options)) {
    if (known.includes(field)) continue;
    const got = (options as Record<string, unknown>)[field];
    const are = known.length === 1 ? "the only option is" : "the options are";
    throw new InvalidConfigError({ field, got, wants: `absent: ${are} ${known.join(", ")}` });
  }
}

/** Checks options whose only field is `signal`, and returns it. @throws {InvalidConfigError} names the option */
export function signalOf(options: unknown): AbortSignalLike | undefined {
  return assertAcquireOptions(options, ["signal"]).signal;
}

/** Checks the options of `close()`. @returns the `drain`: milliseconds to wait for the locks that are held @throws {InvalidConfigError} */
export function drainOf(options: unknown): number {
  if (options === undefined) return 0;
  assertKnown(options, ["drain"]);
  const { drain } = options as { drain?: unknown };
  if (drain === undefined) return 0;
  const bound = milliseconds(drain);
  if (bound === undefined || !(bound >= 0) || bound === Number.POSITIVE_INFINITY) {
    const wants = 'a duration that is not negative, such as 20000 or "20s"';
    throw new InvalidConfigError({ field: "drain", got: drain, wants });
  }
  return bound;
}

function assertObject(options: unknown): asserts options is object {
  if (typeof options === "object" && options !== null) return;
  throw new InvalidConfigError({ field: "options", got: options, wants: "an object" });
}

function assertBoolean(field: string, got: unknown): void {
  if (got !== undefined && typeof got !== "boolean") {
    throw new InvalidConfigError({ field, got, wants: "true or false" });
  }
}

/** Checks a client by its shape. A pool has the same shape, but would run each statement on whichever session is free. */
function assertSessionClient(client: unknown): void {
  if (client === undefined) return;
  const { query, on, removeListener, totalCount } = (client ?? {}) as Record<string, unknown>;
  const isOne = [query, on, removeListener].every((method) => typeof method === "function");
  if (isOne && typeof totalCount !== "number") return;
  const wants = "a client of node-postgres, and not a pool";
  throw new InvalidConfigError({ field: "client", got: client, wants });
}

function assertSignal(signal: unknown): void {
  if (signal === undefined || isSignal(signal)) return;
  throw new InvalidConfigError({ field: "signal", got: signal, wants: "an AbortSignal" });
}

/** Tells a signal by its shape, because polyfills have classes of their own. */
export function isSignal(value: unknown): value is AbortSignalLike {
  const { aborted, addEventListener, removeEventListener } = (value ?? {}) as Partial<AbortSignalLike>;
  return (
    typeof aborted === "boolean" &&
    typeof addEventListener === "function" &&
    typeof removeEventListener === "function"
  );
}

/** The shortest TTL, in milliseconds: a shorter one would pass before any answer, and was most likely meant in seconds. */
export const shortestTtl = 1;

/** Checks a TTL. @returns milliseconds @throws {InvalidTtlError} */
export function assertTtl(got: unknown): number {
  const ttl = milliseconds(got);
  if (ttl === undefined || !(ttl >= shortestTtl) || ttl === Number.POSITIVE_INFINITY) {
    throw new InvalidTtlError(got);
  }
  return ttl;
}

/** Checks the option `wait`. @returns milliseconds: 0 to try once, `Infinity` to wait without a bound @throws {InvalidConfigError} */
export function assertWait(got: unknown): number {
  if (got === undefined) return 0;
  if (got === true) return Number.POSITIVE_INFINITY;
  const wait = milliseconds(got);
  if (wait === undefined || !(wait >= 0) || wait === Number.POSITIVE_INFINITY) {
    throw new InvalidConfigError({
      field: "wait",
      got,
      wants: 'a duration that is not negative, such as 10000 or "10s", or true',
    });
  }
  return wait;
}

/** Checks the keys of `acquireAll`. @throws {InvalidConfigError} @throws {EmptyKeyError} @throws {InvalidKeyError} */
export function assertKeys(got: unknown): readonly LockKey[] {
  if (!Array.isArray(got)) throw new InvalidConfigError({ field: "keys", got, wants: "an array of keys" });
  if (got.length === 0) {
    throw new InvalidConfigError({ field: "keys", got, wants: "an array of at least one key" });
  }
  const seen = new Set<string>();
  const twice = got.find((key) => seen.size === seen.add(keyText(key)).size);
  if (twice !== undefined) {
    throw new InvalidConfigError({
      field: "keys",
      got: twice,
      wants: "an array in which no key occurs twice",
    });
  }
  return got;
}
