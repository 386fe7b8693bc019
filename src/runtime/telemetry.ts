import { setImmediate } from "node:timers";
import {
  type Attributes,
  type Counter,
  createNoopMeter,
  type Histogram,
  type MeterProvider,
  metrics,
  ProxyTracerProvider,
  type Span,
  SpanStatusCode,
  type Tracer,
  type TracerProvider,
  trace,
  type UpDownCounter,
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
import { channels, LockEventSource } from "./lock-event-source.ts";
import type { StopSignal } from "./stop-signal.ts";
import { callHook, hookThrew } from "./user-hook.ts";

export interface TelemetryOptions {
  /** The locker's namespace, for the log and the metrics. @default 0 */
  readonly namespace?: number | undefined;
  readonly logger?: Logger | undefined;
  /** Where spans go. @default the global provider of `@opentelemetry/api` */
  readonly tracerProvider?: TracerProvider | undefined;
  /** Where metrics go. @default the global provider of `@opentelemetry/api` */
  readonly meterProvider?: MeterProvider | undefined;
}

export type OperationName = "acquire" | "refresh" | "release" | "ping" | "close";

/** The attributes of a span about a lock. The names are the Go package's, so that one dashboard serves both. */
export interface LockFacts {
  readonly key: string;
  readonly id: bigint;
  /** Milliseconds. */
  readonly ttl: number;
}

const scope = "postgres_distributed_lock";

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** Writes spans, metrics and the log. No decision depends on it. */
export class Telemetry {
  readonly log: Logger;
  readonly events: LockEventSource;
  /** Whether the user gave a logger. */
  readonly isLogged: boolean;
  readonly #tracerProvider: TracerProvider;
  readonly #tracer: Tracer;
  #isTraced = false;
  readonly #lines = new LateLines();
  readonly #succeeded: Partial<Record<OperationName, Counts>>;
  readonly #contended: Counts;
  readonly #errors: Counts;
  readonly #lost: Counts;
  readonly #faultsRiddenOut: Counts;
  readonly #latency: Histogram | undefined;
  readonly #held: Counts;

  constructor(options: TelemetryOptions) {
    this.events = new LockEventSource(options.namespace ?? 0);
    this.isLogged = options.logger !== undefined;
    this.log = options.logger === undefined ? quiet : guardedLog(options.logger);
    this.#tracerProvider = options.tracerProvider ?? trace.getTracerProvider();
    this.#tracer = callHook("tracer provider", () => this.#tracerProvider.getTracer(scope)) ?? noTracer;
    const provider = options.meterProvider ?? metrics.getMeterProvider();
    const meter = callHook("meter provider", () => provider.getMeter(scope)) ?? createNoopMeter();
    const counter = (name: string, unit: string, description: string): Counts =>
      callHook("meter", () => meter.createCounter(`${scope}_${name}`, { unit, description }));
    this.#succeeded = {
      acquire: counter("acquires", "{lock}", "Locks acquired"),
      release: counter("releases", "{lock}", "Locks released by their holder while held"),
      refresh: counter("refreshes", "{lock}", "Refreshes that proved a lock to be held"),
    };
    this.#contended = counter(
      "contended",
      "{lock}",
      "Acquires refused: held elsewhere, or no connection was free",
    );
    this.#errors = counter("errors", "{operation}", "Operations that the database or the way to it failed");
    this.#lost = counter("lost", "{lock}", "Locks whose holding ended without a release");
    this.#faultsRiddenOut = counter(
      "faults_ridden_out",
      "{fault}",
      "Faults of the database in spite of which a wait for a lock went on",
    );
    // Without a unit, as in the Go package: with one, a Prometheus exporter may append `_milliseconds` to the name.
    this.#latency = callHook("meter", () =>
      meter.createHistogram(`${scope}_latency_ms`, {
        description: "Milliseconds from the call of an operation to its answer",
      }),
    );
    this.#held = callHook("meter", () =>
      meter.createUpDownCounter(`${scope}_held`, { unit: "{lock}", description: "Locks held now" }),
    );
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
    callHook("tracer", () => this.#tracer.startActiveSpan(`${scope}.${operation}`, { attributes }, within));
    // If the tracer threw before it called the work, the work runs without a span. A tracer that calls it late, or again, gets this promise.
    outcome ??= work();
    return outcome;
  }

  /**
   * Whether anybody reads spans. If an application has set no tracer provider, the spans of the default one are empty, yet cost more
   * than everything else here.
   */
  get isTraced(): boolean {
    if (this.#isTraced) return true;
    const provider = this.#tracerProvider;
    try {
      this.#isTraced =
        !(provider instanceof ProxyTracerProvider) || provider.getDelegateTracer(scope) !== undefined;
    } catch (error) {
      hookThrew("tracer provider", error);
    }
    return this.#isTraced;
  }

  /** Records a success. @param start when the operation began, by `performance.now()` */
  succeeded(operation: OperationName, start: number): void {
    this.#count(this.#succeeded[operation], 1);
    this.#timed(operation, start);
  }

  /** Records a failure or a refusal. `start`: when the operation began, by `performance.now()`. */
  failed(
    operation: OperationName,
    lock: LockFacts | undefined,
    { error, signal, start }: { error: unknown; signal: StopSignal | undefined; start: number },
  ): void {
    this.#timed(operation, start);
    const outcome = outcomeOf(error, signal);
    if (outcome !== undefined) {
      if (operation === "acquire" && contention.has(outcome)) this.#count(this.#contended, 1);
      this.log.debug({ ...logged(lock), operation, outcome }, `${operation}: ${outcome}`);
      return;
    }
    this.#count(this.#errors, 1);
    const err = toError(error);
    this.log.error({ ...logged(lock), operation, err }, err.message);
  }

  /** Records that a wait goes on in spite of a fault. */
  ridingOut(lock: LockFacts, fault: Error, { isFirst }: { isFirst: boolean }): void {
    this.#count(this.#faultsRiddenOut, 1);
    // An outage of minutes makes one warning for each wait, not one for each try.
    const level = isFirst ? "warn" : "debug";
    this.log[level]({ ...logged(lock), err: fault }, `still waiting, in spite of a fault: ${fault.message}`);
  }

  granted(): void {
    this.#count(this.#held, 1);
  }

  /**
   * Records the end of a lock. `reason` is `undefined` for a release; `cause` is `undefined` for a release and for the locker's `close()`.
   * `isKept`: the lock still keeps others out.
   */
  ended(lock: LockFacts, cause: Error | undefined, reason: Error | undefined, isKept = false): void {
    this.#count(this.#held, -1);
    const isHeard = channels.released.hasSubscribers || channels.lost.hasSubscribers;
    if (isHeard || this.events.listeners.size > 0) this.events.ended(lock, reason);
    if (cause === undefined) return;
    this.#count(this.#lost, 1);
    const message = isKept ? `${cause.message}; ${kept}` : cause.message;
    // A session that dies may take a thousand locks with it: every holder is told before the first line is written.
    this.#lines.push(() => this.log.warn({ ...logged(lock), err: cause }, message));
  }

  /** Adds to a counter. Catches errors as {@link callHook} does, but without creating a function for each call. */
  #count(counter: Counts, more: 1 | -1): void {
    try {
      const returned: unknown = counter?.add(more);
      if (returned !== undefined) callHook("meter", () => returned);
    } catch (error) {
      hookThrew("meter", error);
    }
  }

  #timed(operation: OperationName, start: number): void {
    try {
      const returned: unknown = this.#latency?.record(performance.now() - start, latencyOf[operation]);
      if (returned !== undefined) callHook("meter", () => returned);
    } catch (error) {
      hookThrew("meter", error);
    }
  }
}

const kept =
  'it still keeps others out, until release(), refresh() or close(): only ttlEnforcement "server" ends it';

/** A counter of the meter; `undefined` if the meter threw when asked for it. */
type Counts = Counter | UpDownCounter | undefined;

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

/** Log lines that wait until the event loop has nothing more urgent, so that a slow logger delays nothing for long. */
class LateLines {
  readonly #lines: Array<() => void> = [];

  push(line: () => void): void {
    this.#lines.push(line);
    if (this.#lines.length === 1) setImmediate(() => this.#write(0));
  }

  /** Writes lines for a few milliseconds, and then lets other work run. */
  #write(at: number): void {
    const start = performance.now();
    let next = at;
    while (next < this.#lines.length && performance.now() - start < 5) {
      this.#lines[next]?.();
      next += 1;
    }
    if (next < this.#lines.length) setImmediate(() => this.#write(next));
    else this.#lines.length = 0;
  }
}

const noTracer: Tracer = new ProxyTracerProvider().getTracer(scope);

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

const latencyOf: Record<OperationName, Attributes> = {
  acquire: { operation: "acquire" },
  refresh: { operation: "refresh" },
  release: { operation: "release" },
  ping: { operation: "ping" },
  close: { operation: "close" },
};

function attributesOf(lock: LockFacts | undefined): Attributes {
  if (lock === undefined) return {};
  return { "lock.key": lock.key, "lock.id": lock.id.toString(), "lock.ttl": formatDuration(lock.ttl) };
}

/** The facts about a lock for the log. The id is a string, because JSON numbers don't carry 64 bits. */
function logged(lock: LockFacts | undefined): object {
  return lock === undefined ? {} : { key: lock.key, id: lock.id.toString(), ttl: lock.ttl };
}
