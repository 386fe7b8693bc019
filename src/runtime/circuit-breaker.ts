import { milliseconds } from "../contract/duration.ts";
import { CircuitOpenError, InvalidConfigError } from "../contract/errors.ts";
import type { Duration } from "../contract/locker.ts";
import { setImmediate } from "./clock.ts";
import { SamplingBreaker } from "./sampling-breaker.ts";

/**
 * Protects a failing database from further load: it either calls `fn` or rejects without calling it. Every policy of cockatiel fits, also
 * several wrapped together. A policy that calls `fn` again gets the outcome of the first call; one that calls `fn` after it has settled
 * gets a refusal. What the policy returns is ignored: once `fn` was called, only its own outcome counts. So a time-out of the policy
 * affects only the policy's own statistics, and a policy that never settles delays nobody.
 */
export interface CircuitBreaker {
  execute<T>(fn: () => Promise<T>): Promise<T>;
}

export interface CircuitBreakerOptions {
  /**
   * Opens when at least this share of the samples failed: percent, from 1 to 100.
   *
   * @default 100
   * @example
   * createCircuitBreaker({ errorRate: 50 });
   */
  readonly errorRate?: number;
  /**
   * Stays closed while the window has fewer samples than this.
   *
   * @default 20
   * @example
   * createCircuitBreaker({ minimumSamples: 5 });
   */
  readonly minimumSamples?: number;
  /**
   * The length of the window of samples, and so the longest time of failures before the breaker opens.
   *
   * @default "10s"
   * @example
   * createCircuitBreaker({ openAfter: "30s" });
   */
  readonly openAfter?: Duration;
}

/**
 * Creates a circuit breaker with the Go package's defaults. While open, it lets one operation through after about 0.5 s, then after
 * ever longer delays of at most about 60 s, and closes when one succeeds.
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
 * Runs `operation` through the breaker, if there is one. Once `operation` was called, its own outcome counts, whatever the breaker
 * returns: a policy that settles early, such as a time-out, knows nothing of a lock that may still be granted.
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
    /** Settles with the outcome of the operation, or with a refusal if it was never called. */
    const settle = (cause: unknown): void => {
      // The caller has its refusal and has gone: a policy that calls later must not start the operation.
      outcome ??= Promise.reject(new CircuitOpenError({ cause }));
      outcome.then(resolve, reject);
    };
    /** Gives the policy a turn of the event loop to see the outcome, but does not wait for its result. */
    const settleSoon = (): void => void setImmediate(settle);
    const call = (): Promise<T> => {
      // A policy that calls again, such as a retry, gets the same promise: one operation has one outcome.
      if (outcome === undefined) {
        outcome = operation();
        outcome.then(settleSoon, settleSoon);
      }
      return outcome;
    };
    const answeredAlone = (): void =>
      settle(new Error("its `execute` returned without calling the function"));
    try {
      Promise.resolve(breaker.execute(call)).then(answeredAlone, settle);
    } catch (error) {
      settle(error);
    }
  });
}
