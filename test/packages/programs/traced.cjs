// Holds locks with a driver that OpenTelemetry's agent has patched, and checks the traces.
const assert = require("node:assert/strict");
const { registerInstrumentations } = require("@opentelemetry/instrumentation");
const { PgInstrumentation } = require("@opentelemetry/instrumentation-pg");
const { AsyncLocalStorageContextManager } = require("@opentelemetry/context-async-hooks");
const { context } = require("@opentelemetry/api");
const {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} = require("@opentelemetry/sdk-trace-base");

const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
registerInstrumentations({ tracerProvider, instrumentations: [new PgInstrumentation()] });

const pg = require("pg");
const { PostgresLocker } = require("pg-locker");

async function main() {
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
  for (const sessions of ["dedicated", "shared"]) {
    const locker = new PostgresLocker({ pool, sessions });
    const key = `traced:${process.pid}:${sessions}`;
    for (let times = 0; times < 3; times += 1) {
      const lock = await locker.acquire(key);
      assert.equal(await locker.tryAcquire(key), undefined);
      await lock.refresh();
      await lock.release();
    }
    await locker.withTransaction(key, (client) => client.query("select 1"));
    await locker.ping();
    await locker.close();
  }
  await pool.end();
  const names = exporter.getFinishedSpans().map((span) => span.name);
  assert.ok(names.some((name) => name.startsWith("pg-pool.connect")));
  assert.ok(names.some((name) => name.startsWith("pg.query")));
  console.log("traced");
}

void main();
