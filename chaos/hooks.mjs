// Hooks of a user's that throw, each of them, always: a logger that wants a request's context, a meter and a tracer whose exporter has gone.

/** Always the same: what it costs to make one isn't to be felt. */
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
