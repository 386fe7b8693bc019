import {
  type Attributes,
  type Counter,
  createNoopMeter,
  type Histogram,
  type MeterProvider,
  type UpDownCounter,
} from "@opentelemetry/api";
import { callHook, hookThrew } from "./user-hook.ts";

export type OperationName = "acquire" | "refresh" | "release" | "ping" | "close";

/** The scope of the spans and the metrics, and the prefix of their names, as in the Go package. */
export const telemetryScope = "postgres_distributed_lock";

/** A counter of the meter; `undefined` if the meter threw when asked for it. */
type Counts = Counter | UpDownCounter | undefined;

/** The meter's instruments, under the Go package's names. A meter that throws changes nothing. */
export class Instruments {
  readonly succeeded: Partial<Record<OperationName, Counts>>;
  readonly contended: Counts;
  readonly errors: Counts;
  readonly lost: Counts;
  readonly faultsRiddenOut: Counts;
  readonly latency: Histogram | undefined;
  readonly held: Counts;

  constructor(provider: MeterProvider) {
    const meter = callHook("meter provider", () => provider.getMeter(telemetryScope)) ?? createNoopMeter();
    const counter = (name: string, unit: string, description: string): Counts =>
      callHook("meter", () => meter.createCounter(`${telemetryScope}_${name}`, { unit, description }));
    this.succeeded = {
      acquire: counter("acquires", "{lock}", "Locks acquired"),
      release: counter("releases", "{lock}", "Locks released by their holder while held"),
      refresh: counter("refreshes", "{lock}", "Refreshes that proved a lock to be held"),
    };
    this.contended = counter(
      "contended",
      "{lock}",
      "Acquires refused: held elsewhere, or no connection was free",
    );
    this.errors = counter("errors", "{operation}", "Operations that the database or the way to it failed");
    this.lost = counter("lost", "{lock}", "Locks whose holding ended without a release");
    this.faultsRiddenOut = counter(
      "faults_ridden_out",
      "{fault}",
      "Faults of the database that a wait for a lock outlasted",
    );
    // Without a unit, as in the Go package: with one, a Prometheus exporter may append `_milliseconds` to the name.
    this.latency = callHook("meter", () =>
      meter.createHistogram(`${telemetryScope}_latency_ms`, {
        description: "Milliseconds from the call of an operation to its answer",
      }),
    );
    this.held = callHook("meter", () =>
      meter.createUpDownCounter(`${telemetryScope}_held`, { unit: "{lock}", description: "Locks held now" }),
    );
  }
}

/** Whether nobody reads what its meters count, because it is the default one of an application that has set none. */
export function isUnset(provider: MeterProvider): boolean {
  return callHook("meter provider", () => provider.getMeter(telemetryScope)) === createNoopMeter();
}

/** Adds to a counter. Catches errors as {@link callHook} does, but without creating a function for each call. */
export function count(counter: Counts, more: number): void {
  try {
    const returned: unknown = counter?.add(more);
    if (returned !== undefined) callHook("meter", () => returned);
  } catch (error) {
    hookThrew("meter", error);
  }
}

/** Records a latency. @param start when the operation began, by `performance.now()` */
export function time(latency: Histogram | undefined, operation: OperationName, start: number): void {
  try {
    const returned: unknown = latency?.record(performance.now() - start, latencyOf[operation]);
    if (returned !== undefined) callHook("meter", () => returned);
  } catch (error) {
    hookThrew("meter", error);
  }
}

const latencyOf: Record<OperationName, Attributes> = {
  acquire: { operation: "acquire" },
  refresh: { operation: "refresh" },
  release: { operation: "release" },
  ping: { operation: "ping" },
  close: { operation: "close" },
};
