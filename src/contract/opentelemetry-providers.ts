/** What a locker needs of OpenTelemetry's `TracerProvider`. That of any `@opentelemetry/api` 1 fits. */
export interface OpenTelemetryTracerProvider {
  getTracer(name: string): { startActiveSpan(name: string, options: never, run: never): unknown };
}

/** What a locker needs of OpenTelemetry's `MeterProvider`. That of any `@opentelemetry/api` 1 fits. */
export interface OpenTelemetryMeterProvider {
  getMeter(name: string): {
    createCounter(name: string, options?: never): object;
    createHistogram(name: string, options?: never): object;
    createUpDownCounter(name: string, options?: never): object;
  };
}
