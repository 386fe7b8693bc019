import {
  type Attributes,
  type MeterProvider,
  metrics,
  type ProxyTracerProvider,
  type Span,
  SpanStatusCode,
  type Tracer,
  type TracerProvider,
  trace,
} from "@opentelemetry/api";
import { toError } from "../contract/caught-error.ts";
import { formatDuration } from "../contract/duration.ts";
import {
  CircuitOpenError,
  EmptyKeyError,
  InvalidConfigError,
  InvalidKeyError,
  InvalidTtlError,
  LockerClosedError,
  LockNotAcquiredError,
  LockNotHeldError,
} from "../contract/errors.ts";
import type { Logger } from "../contract/locker.ts";
import type {
  OpenTelemetryMeterProvider,
  OpenTelemetryTracerProvider,
} from "../contract/opentelemetry-providers.ts";
import { setImmediate } from "./clock.ts";
import { count, Instruments, isUnset, type OperationName, telemetryScope, time } from "./instruments.ts";
import { channels, LockEventSource } from "./lock-event-source.ts";
import type { StopSignal } from "./stop-signal.ts";
import { callHook, hookThrew } from "./user-hook.ts";

export interface TelemetryOptions {
  /** The locker's namespace, for the log and the metrics. @default 0 */
  readonly namespace?: number | undefined;
  readonly logger?: Logger | undefined;
  /** Where spans go. @default the global provider of `@opentelemetry/api` */
  readonly tracerProvider?: OpenTelemetryTracerProvider | undefined;
  /** Where metrics go. @default the global provider of `@opentelemetry/api` */
  readonly meterProvider?: OpenTelemetryMeterProvider | undefined;
}

/** The attributes of a span about a lock. The names are the Go package's, so that one dashboard serves both. */
export interface LockFacts {
  readonly key: string;
  readonly id: bigint;
  /** Milliseconds. */
  readonly ttl: number;
}

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** Writes spans, metrics and the log. No decision depends on it. */
export class Telemetry {
  readonly log: Logger;
  readonly events: LockEventSource;
  /** Whether the user gave a logger. */
  readonly isLogged: boolean;
  /** The provider that the user gave. */
  readonly #tracerProvider: TracerProvider | undefined;
  /** What makes spans; `undefined` as long as nobody reads them. */
  #tracer: Tracer | undefined;
  readonly #late = new LateWork();
  /** What is measured with; `undefined` as long as nobody measures. */
  #instruments: Instruments | undefined;
  /** The global meter provider before an application has set one; `undefined` if one was there. */
  readonly #unset: MeterProvider | undefined;
  /** Locks held now, also those that were granted while nobody measured. */
  #held = 0;

  constructor(options: TelemetryOptions) {
    this.events = new LockEventSource(options.namespace ?? 0);
    this.isLogged = options.logger !== undefined;
    this.log = options.logger === undefined ? quiet : guardedLog(options.logger);
    this.#tracerProvider = options.tracerProvider as TracerProvider | undefined;
    const meters = (options.meterProvider as MeterProvider | undefined) ?? metrics.getMeterProvider();
    if (options.meterProvider === undefined && isUnset(meters)) this.#unset = meters;
    else this.#instruments = new Instruments(meters);
  }

  /** Runs `work` in a span, measures its duration, and counts its outcome. Rejects as `work` does. */
  observe<T>(
    operation: OperationName,
    lock: LockFacts | undefined,
    signal: StopSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    const measure = (): Promise<T> => this.measure(operation, lock, signal, work);
    return this.isTraced ? this.inSpan(operation, lock, signal, measure) : measure();
  }

  /** Measures the duration of `work` and counts its outcome, without a span. Rejects as `work` does. */
  async measure<T>(
    operation: OperationName,
    lock: LockFacts | undefined,
    signal: StopSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    const start = performance.now();
    try {
      const answer = await work();
      this.succeeded(operation, start);
      return answer;
    } catch (error) {
      this.failed(operation, lock, { error, signal, start });
      throw error;
    }
  }

  /** Runs `work`, which records its own outcome, in a span. Rejects as `work` does. */
  inSpan<T>(
    operation: OperationName,
    lock: LockFacts | undefined,
    signal: StopSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    let outcome: Promise<T> | undefined;
    const within = (span: Span): void => {
      outcome ??= work();
      outcome.then(
        () => endSpan(span, "ok"),
        (error: unknown) => endSpan(span, outcomeOf(error, signal) ?? "error", error),
      );
    };
    const attributes = attributesOf(lock);
    callHook("tracer", () =>
      this.#tracer?.startActiveSpan(`${telemetryScope}.${operation}`, { attributes }, within),
    );
    // If the tracer threw before it called the work, the work runs without a span. A tracer that calls it late, or again, gets this promise.
    outcome ??= work();
    return outcome;
  }

  /**
   * Whether anybody reads spans. If an application has set no tracer provider, the spans of the default one are empty, yet cost more
   * than everything else here. The application may set it late, and in another copy of OpenTelemetry's API than the one used here.
   */
  get isTraced(): boolean {
    if (this.#tracer !== undefined) return true;
    const provider = this.#tracerProvider ?? trace.getTracerProvider();
    // Only the default provider has this method. It may be one of another copy of the API, so its class says nothing.
    const { getDelegateTracer } = provider as Partial<ProxyTracerProvider>;
    try {
      if (getDelegateTracer === undefined || getDelegateTracer.call(provider, telemetryScope) !== undefined)
        this.#tracer = provider.getTracer(telemetryScope);
    } catch (error) {
      hookThrew("tracer provider", error);
    }
    return this.#tracer !== undefined;
  }

  /** As with traces, a global provider that the application sets late counts as well. */
  get #inUse(): Instruments | undefined {
    const unset = this.#unset;
    if (this.#instruments !== undefined || unset === undefined) return this.#instruments;
    const provider = metrics.getMeterProvider();
    if (provider === unset) return undefined;
    this.#instruments = new Instruments(provider);
    count(this.#instruments.held, this.#held);
    return this.#instruments;
  }

  /** Records a success. @param start when the operation began, by `performance.now()` */
  succeeded(operation: OperationName, start: number): void {
    const instruments = this.#inUse;
    if (instruments === undefined) return;
    count(instruments.succeeded[operation], 1);
    time(instruments.latency, operation, start);
  }

  /** Records a failure or a refusal. `start`: when the operation began, by `performance.now()`. */
  failed(
    operation: OperationName,
    lock: LockFacts | undefined,
    { error, signal, start }: { error: unknown; signal: StopSignal | undefined; start: number },
  ): void {
    const instruments = this.#inUse;
    time(instruments?.latency, operation, start);
    const outcome = outcomeOf(error, signal);
    if (outcome !== undefined) {
      if (operation === "acquire" && contention.has(outcome)) count(instruments?.contended, 1);
      this.log.debug({ ...logged(lock), operation, outcome }, `${operation}: ${outcome}`);
      return;
    }
    count(instruments?.errors, 1);
    const err = toError(error);
    this.log.error({ ...logged(lock), operation, err }, err.message);
  }

  /** Records that a wait goes on in spite of a fault. */
  ridingOut(lock: LockFacts, fault: Error, { isFirst }: { isFirst: boolean }): void {
    count(this.#inUse?.faultsRiddenOut, 1);
    // An outage of minutes makes one warning for each wait, not one for each try.
    const level = isFirst ? "warn" : "debug";
    this.log[level]({ ...logged(lock), err: fault }, `still waiting, in spite of a fault: ${fault.message}`);
  }

  granted(): void {
    this.#held += 1;
    if (this.#instruments !== undefined) count(this.#instruments.held, 1);
  }

  /**
   * Records the end of a lock. `reason` is `undefined` for a release; `cause` is `undefined` for a release and for the locker's `close()`.
   * `isKept`: the lock still keeps others out.
   */
  ended(lock: LockFacts, cause: Error | undefined, reason: Error | undefined, isKept = false): void {
    const instruments = reason === undefined ? this.#instruments : this.#inUse;
    this.#held -= 1;
    const isHeard = channels.released.hasSubscribers || channels.lost.hasSubscribers;
    if (isHeard || this.events.listeners.size > 0) this.events.ended(lock, reason);
    if (reason !== undefined) this.#endedEarly(lock, cause, { instruments, isKept });
    else if (instruments !== undefined) count(instruments.held, -1);
  }

  /** A session that dies, or a close(), may end a thousand locks: every holder is told before the first end is counted and logged. */
  #endedEarly(
    lock: LockFacts,
    cause: Error | undefined,
    { instruments, isKept }: { instruments: Instruments | undefined; isKept: boolean },
  ): void {
    this.#late.push(() => {
      count(instruments?.held, -1);
      if (cause === undefined) return;
      count(instruments?.lost, 1);
      this.log.warn({ ...logged(lock), err: cause }, isKept ? `${cause.message}; ${kept}` : cause.message);
    });
  }
}

const kept =
  'it still keeps others out, until release(), refresh() or close(): only ttlEnforcement "server" ends it';

function endSpan(span: Span, outcome: string, error?: unknown): void {
  callHook("tracer", () => span.setAttribute("lock.outcome", outcome));
  if (outcome === "error") {
    const exception = toError(error);
    const { message } = exception;
    callHook("tracer", () => span.recordException(exception));
    callHook("tracer", () => span.setStatus({ code: SpanStatusCode.ERROR, message }));
  }
  callHook("tracer", () => span.end());
}

function guardedLog(logger: Logger): Logger {
  const guarded =
    (level: keyof Logger): Logger[keyof Logger] =>
    (facts, message) =>
      void callHook("logger", () => logger[level](facts, message));
  return { debug: guarded("debug"), info: guarded("info"), warn: guarded("warn"), error: guarded("error") };
}

/** Calls of a logger and a meter that wait until the event loop has nothing more urgent: if these are slow, they delay nothing for long. */
class LateWork {
  readonly #calls: Array<() => void> = [];

  push(call: () => void): void {
    this.#calls.push(call);
    if (this.#calls.length === 1) setImmediate(() => this.#do(0));
  }

  /** Works for a few milliseconds, and then lets others work. */
  #do(at: number): void {
    const start = performance.now();
    let next = at;
    while (next < this.#calls.length && performance.now() - start < 5) {
      this.#calls[next]?.();
      next += 1;
    }
    if (next < this.#calls.length) setImmediate(() => this.#do(next));
    else this.#calls.length = 0;
  }
}

const contention: ReadonlySet<string> = new Set([
  "held",
  "wait-timeout",
  "pool-saturated",
  "id-collision",
  "recovering",
]);

/** The name of an outcome that isn't the database's fault; `undefined` if it is. */
function outcomeOf(error: unknown, signal: StopSignal | undefined): string | undefined {
  if (signal?.aborted && error === signal.reason) return "aborted";
  if (error instanceof LockNotAcquiredError)
    return error.reason === "connection-timeout" ? undefined : error.reason;
  if (error instanceof LockNotHeldError) return error.reason === "lost" ? undefined : error.reason;
  if (error instanceof CircuitOpenError) return "circuit-open";
  if (error instanceof LockerClosedError) return "closed";
  return misuse.some((kind) => error instanceof kind) ? "misuse" : undefined;
}

const misuse = [EmptyKeyError, InvalidKeyError, InvalidTtlError, InvalidConfigError];

function attributesOf(lock: LockFacts | undefined): Attributes {
  if (lock === undefined) return {};
  return { "lock.key": lock.key, "lock.id": lock.id.toString(), "lock.ttl": formatDuration(lock.ttl) };
}

/** The facts about a lock for the log. The id is a string, because JSON numbers don't carry 64 bits. */
function logged(lock: LockFacts | undefined): object {
  return lock === undefined ? {} : { key: lock.key, id: lock.id.toString(), ttl: lock.ttl };
}
