import { milliseconds } from "../contract/duration.ts";
import { CircuitOpenError, InvalidConfigError } from "../contract/errors.ts";
import type { Duration } from "../contract/locker.ts";
import { SamplingBreaker } from "./sampling-breaker.ts";

/**
 * Stands between the locker and a database in trouble. It calls `fn`, or rejects without calling it. Every policy of cockatiel fits,
 * also several wrapped together; one that calls `fn` again gets the outcome of the first call, and one that calls
 * it after its own answer gets a refusal. What the policy returns is not looked at: if `fn` was called, its own outcome counts, so a
 * time-out of the policy changes only what that learns, and a policy that never settles holds nobody up.
 */
export interface CircuitBreaker {
  execute<T>(fn: () => Promise<T>): Promise<T>;
}

export interface CircuitBreakerOptions {
  /** Opens when at least this share of the samples failed: percent, from 1 to 100. Default 100. */
  readonly errorRate?: number;
  /** Fewer samples than this in the window open nothing. Default 20. */
  readonly minimumSamples?: number;
  /** How long the samples of the window reach back; the breaker opens after that much trouble at the latest. Default `"10s"`. */
  readonly openAfter?: Duration;
}

/**
 * A circuit breaker with the Go package's defaults. While open, it lets one operation through after about 0.5 s, then after
 * ever longer times, about 60 s at most, and closes with the first that succeeds.
 *
 * @throws {InvalidConfigError} a field is out of its range
 */
export function createCircuitBreaker(options: CircuitBreakerOptions = {}): CircuitBreaker {
  if (typeof options !== "object" || options === null) {
    throw new InvalidConfigError({ field: "options", got: options, wants: "an object" });
  }
  const { errorRate = 100, minimumSamples = 20, openAfter = "10s", ...unknown } = options;
  for (const [field, got] of Object.entries(unknown)) {
    throw new InvalidConfigError({
      field,
      got,
      wants: "absent: the options are errorRate, minimumSamples and openAfter",
    });
  }
  if (typeof errorRate !== "number" || !(errorRate >= 1 && errorRate <= 100)) {
    throw new InvalidConfigError({ field: "errorRate", got: errorRate, wants: "a percentage from 1 to 100" });
  }
  if (!Number.isInteger(minimumSamples) || minimumSamples < 1) {
    throw new InvalidConfigError({
      field: "minimumSamples",
      got: minimumSamples,
      wants: "a whole number from 1 up",
    });
  }
  const window = milliseconds(openAfter);
  if (window === undefined || !(window >= 100) || window === Number.POSITIVE_INFINITY) {
    throw new InvalidConfigError({
      field: "openAfter",
      got: openAfter,
      wants: 'a duration of at least 100 ms, such as "10s"',
    });
  }
  return new SamplingBreaker({ errorRate, minimumSamples, window });
}

/**
 * Runs `operation` through the breaker, if there is one. Once it was called, its outcome is its own, whatever the breaker makes
 * of it: a policy that settles before it has ended (a time-out) knows nothing of the lock that it may still get.
 *
 * @throws {CircuitOpenError} the breaker refused, and `operation` was not called
 * @throws what `operation` throws
 */
export function throughBreaker<T>(
  breaker: CircuitBreaker | undefined,
  operation: () => Promise<T>,
): Promise<T> {
  return breaker === undefined ? operation() : through(breaker, operation);
}

function through<T>(breaker: CircuitBreaker, operation: () => Promise<T>): Promise<T> {
  let outcome: Promise<T> | undefined;
  return new Promise((resolve, reject) => {
    /** Once the operation was called, its own outcome counts. */
    const settle = (cause: unknown): void => {
      // Whoever was refused has gone: a policy that calls later finds nothing to do.
      outcome ??= Promise.reject(new CircuitOpenError({ cause }));
      outcome.then(resolve, reject);
    };
    /** A policy that keeps its result to itself gets the time to learn of the outcome, and no more. */
    const settleSoon = (): void => void setImmediate(settle);
    const call = (): Promise<T> => {
      // A policy that calls again, such as a retry, gets the same: one operation has one outcome.
      if (outcome === undefined) {
        outcome = operation();
        outcome.then(settleSoon, settleSoon);
      }
      return outcome;
    };
    const answeredAlone = (): void => settle(new Error("it answered without a call"));
    try {
      Promise.resolve(breaker.execute(call)).then(answeredAlone, settle);
    } catch (error) {
      settle(error);
    }
  });
}
