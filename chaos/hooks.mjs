// User hooks that throw on every call: a logger that needs a request's context, a meter and a tracer whose exporter has gone.

/** One error for all calls, so that the cost of making one doesn't matter. */
const thrown = new Error("a hook that throws");

function throws() {
  throw thrown;
}

const instrument = { add: throws, record: throws };
const meter = {
  createCounter: () => instrument,
  createUpDownCounter: () => instrument,
  createHistogram: () => instrument,
};

export const throwingHooks = {
  logger: { debug: throws, info: throws, warn: throws, error: throws },
  meterProvider: { getMeter: () => meter },
  tracerProvider: { getTracer: () => ({ startSpan: throws, startActiveSpan: throws }) },
};
