import { milliseconds } from "./duration.ts";
import { InvalidConfigError, InvalidTtlError } from "./errors.ts";
import type { AcquireOptions, LockMode } from "./locker.ts";

const modes: readonly LockMode[] = ["exclusive", "shared"];
const acquireOptions = ["ttl", "mode", "signal", "autoRefresh"];

/**
 * A misspelt option would be an option ignored: with `{ tll: "1h" }`, the lock of a long job would expire under it.
 *
 * @throws {InvalidConfigError} names the option
 */
export function assertAcquireOptions(options: unknown): AcquireOptions {
  assertObject(options);
  for (const [field, got] of Object.entries(options)) {
    if (acquireOptions.includes(field)) continue;
    throw new InvalidConfigError({
      field,
      got,
      wants: `absent: the options are ${acquireOptions.join(", ")}`,
    });
  }
  const { mode, signal, autoRefresh } = options as AcquireOptions;
  if (mode !== undefined && !modes.includes(mode)) {
    throw new InvalidConfigError({ field: "mode", got: mode, wants: '"exclusive" or "shared"' });
  }
  if (autoRefresh !== undefined && typeof autoRefresh !== "boolean") {
    throw new InvalidConfigError({ field: "autoRefresh", got: autoRefresh, wants: "true or false" });
  }
  assertSignal(signal);
  return options;
}

/** The signal of options that have nothing else. @throws {InvalidConfigError} */
export function signalOf(options: { readonly signal?: AbortSignal }): AbortSignal | undefined {
  assertObject(options);
  assertSignal(options.signal);
  return options.signal;
}

function assertObject(options: unknown): asserts options is object {
  if (typeof options === "object" && options !== null) return;
  throw new InvalidConfigError({ field: "options", got: options, wants: "an object" });
}

function assertSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new InvalidConfigError({ field: "signal", got: signal, wants: "an AbortSignal" });
  }
}

/** @returns milliseconds @throws {InvalidTtlError} */
export function assertTtl(got: unknown): number {
  const ttl = milliseconds(got);
  if (ttl === undefined || !(ttl > 0) || ttl === Number.POSITIVE_INFINITY) throw new InvalidTtlError(got);
  return ttl;
}
