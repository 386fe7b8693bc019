import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { metrics, SpanStatusCode, trace } from "@opentelemetry/api";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { describe, expect, test } from "vitest";
import type { Logger, PostgresLockerOptions } from "../../src/index.ts";
import { advisoryLocks, createPool, terminateHolder, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const prefix = "postgres_distributed_lock";

function measured() {
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
  const meterProvider = new MeterProvider({ readers: [reader] });
  const points = async () =>
    (await reader.collect()).resourceMetrics.scopeMetrics.flatMap((scope) => scope.metrics);
  const values = async () =>
    Object.fromEntries(
      (await points())
        .filter(({ descriptor }) => !descriptor.name.endsWith("_latency_ms"))
        .map(({ descriptor, dataPoints }) => [
          descriptor.name.slice(prefix.length + 1),
          dataPoints.reduce((sum, point) => sum + (point.value as number), 0),
        ]),
    );
  return { meterProvider, points, values };
}

/** A second copy of OpenTelemetry's API, as in an application whose packages have it installed twice. */
function anotherCopy(): { api: { trace: typeof trace }; [Symbol.dispose](): void } {
  const { resolve } = createRequire(import.meta.url);
  const installed = join(resolve("@opentelemetry/api"), "../../..");
  const folder = mkdtempSync(join(tmpdir(), "pg-locker-api-"));
  cpSync(installed, folder, { recursive: true });
  return {
    api: createRequire(join(folder, "package.json"))("./") as { trace: typeof trace },
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}

describe.each(sessionModes)("with %s sessions", (sessions) => {
  function observed(options: Partial<PostgresLockerOptions> = {}) {
    const spanExporter = new InMemorySpanExporter();
    const tracerProvider = new BasicTracerProvider({
      spanProcessors: [new SimpleSpanProcessor(spanExporter)],
    });
    const { meterProvider, points, values } = measured();
    const locker = createLocker({
      sessions,
      pool: createPool(),
      meterProvider,
      tracerProvider,
      ...options,
    } as PostgresLockerOptions);
    return { locker, metrics: points, values, spans: () => spanExporter.getFinishedSpans() };
  }

  test("every instrument counts what it says, with a description and a unit", async () => {
    const { locker, metrics, values } = observed();
    await using _ = locker;
    const lock = await locker.acquire(uniqueKey());
    expect(await locker.tryAcquire(lock.key)).toBeUndefined();
    await lock.refresh();
    expect(await values()).toMatchObject({ held: 1 });
    await lock.release();
    const lost = await locker.acquire(uniqueKey());
    await terminateHolder(lost.id);
    await until(() => lost.signal.aborted);
    await expect(lost.refresh()).rejects.toThrow();
    // A loss is counted after the signals of all locks that were lost with it.
    await until(async () => (await values())["lost"] === 1);
    expect(await values()).toEqual({
      acquires: 2,
      releases: 1,
      refreshes: 1,
      contended: 1,
      errors: 1,
      lost: 1,
      held: 0,
    });
    for (const { descriptor } of await metrics()) {
      expect(descriptor.unit === "", descriptor.name).toBe(descriptor.name.endsWith("_ms"));
      expect(descriptor.description, descriptor.name).not.toBe("");
    }
    const latency = (await metrics()).find(({ descriptor }) => descriptor.name === `${prefix}_latency_ms`);
    const points = (latency?.dataPoints ?? []) as { attributes: object; value: { sum: number } }[];
    expect(points.map(({ attributes }) => attributes)).toEqual(
      expect.arrayContaining([{ operation: "acquire" }, { operation: "refresh" }, { operation: "release" }]),
    );
    expect(points.some(({ value }) => !Number.isInteger(value.sum))).toBe(true);
  });

  test("a global provider that is set after the locker was made counts from then on", async () => {
    const { meterProvider, values } = measured();
    await using locker = createLocker({ sessions });
    const lock = await locker.acquire(uniqueKey());
    metrics.setGlobalMeterProvider(meterProvider);
    try {
      await (await locker.acquire(uniqueKey())).release();
      expect(await values()).toMatchObject({ acquires: 1, releases: 1, held: 1 });
      await lock.release();
      expect(await values()).toMatchObject({ acquires: 1, releases: 2, held: 0 });
    } finally {
      metrics.disable();
    }
  });

  test.each(["this", "another"] as const)(
    "a global tracer set late in %s copy of the API gets spans",
    async (which) => {
      using other = anotherCopy();
      const { trace: global } = which === "this" ? { trace } : other.api;
      const exporter = new InMemorySpanExporter();
      await using locker = createLocker({ sessions, pool: createPool() });
      // As an application may pass it on: a stand-in for whatever is set later.
      await using passed = createLocker({
        sessions,
        pool: createPool(),
        tracerProvider: global.getTracerProvider(),
      });
      await locker.withLock(uniqueKey(), () => {});
      await passed.withLock(uniqueKey(), () => {});
      const spanProcessors = [new SimpleSpanProcessor(exporter)];
      global.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors }));
      try {
        await locker.withLock(uniqueKey(), () => {});
        await passed.withLock(uniqueKey(), () => {});
        const each = ["postgres_distributed_lock.acquire", "postgres_distributed_lock.release"];
        expect(exporter.getFinishedSpans().map(({ name }) => name)).toEqual([...each, ...each]);
      } finally {
        global.disable();
      }
    },
  );

  test("permits count as locks, and what waits for them counts for nothing else", async () => {
    const { locker, metrics, values, spans } = observed();
    await using _ = locker;
    const semaphore = locker.semaphore(uniqueKey(), 1);
    const permit = await semaphore.acquire();
    const waits = [1, 2, 3, 4].map(() => semaphore.withPermit(() => {}, { wait: true }));
    expect(await semaphore.tryAcquire()).toBeUndefined();
    // One of them is next in line, and has the turnstile.
    await until(async () => (await advisoryLocks()).filter(({ granted }) => granted).length === 2);
    expect(locker.stats()).toMatchObject({ locks: 1, waiting: 4, inFlight: 0 });
    expect(await values()).toEqual({ acquires: 1, contended: 1, held: 1 });
    await permit.release();
    await Promise.all(waits);
    await until(() => locker.stats().locks === 0 && locker.stats().inFlight === 0);
    await until(async () => (await advisoryLocks()).length === 0);
    expect(await values()).toEqual({ acquires: 5, releases: 5, contended: 1, held: 0 });
    const counts = (await metrics())
      .filter(({ descriptor }) => descriptor.name === `${prefix}_latency_ms`)
      .flatMap(({ dataPoints }) => dataPoints as { attributes: object; value: { count: number } }[]);
    expect(counts.map(({ attributes, value }) => ({ ...attributes, count: value.count }))).toEqual([
      { operation: "acquire", count: 6 },
      { operation: "release", count: 5 },
    ]);
    const names = spans().map(({ name }) => name);
    expect(names.filter((name) => name === `${prefix}.acquire`)).toHaveLength(6);
    expect(names.filter((name) => name === `${prefix}.release`)).toHaveLength(5);
  });

  test("held returns to 0 after an expiry and after close, which is no loss", async () => {
    const { locker, values } = observed();
    const expiring = await locker.acquire(uniqueKey(), { ttl: "100ms" });
    await until(async () => (await values())["lost"] === 1);
    expect(expiring.signal.aborted).toBe(true);
    expect(await values()).toMatchObject({ held: 0, lost: 1 });
    await locker.acquire(uniqueKey());
    expect(await values()).toMatchObject({ held: 1 });
    await locker.close();
    expect(await values()).toMatchObject({ held: 0, lost: 1 });
  });

  test("each span has key, id and TTL; an expected outcome is an attribute, no error", async () => {
    const { locker, spans } = observed();
    await using _ = locker;
    const lock = await locker.acquire(uniqueKey());
    await locker.tryAcquire(lock.key);
    await lock.refresh("1m");
    await lock.release();
    expect(spans().map(({ name }) => name)).toEqual(
      ["acquire", "acquire", "refresh", "release"].map((name) => `${prefix}.${name}`),
    );
    const facts = { "lock.key": lock.key, "lock.id": lock.id.toString() };
    expect(spans()[0]?.attributes).toMatchObject({ ...facts, "lock.ttl": "30s", "lock.outcome": "ok" });
    expect(spans()[1]?.attributes).toMatchObject({ ...facts, "lock.outcome": "held" });
    expect(spans()[2]?.attributes).toMatchObject({ ...facts, "lock.ttl": "1m0s" });
    expect(
      spans().every(({ status, events }) => status.code === SpanStatusCode.UNSET && events.length === 0),
    ).toBe(true);
  });

  test("a failure of the database is an error of the span, and counts", async () => {
    const pool = createPool({ connectionString: "postgres://postgres@127.0.0.1:1/postgres" });
    const { locker, spans, values } = observed({ pool });
    await using _ = locker;
    await expect(locker.acquire(uniqueKey())).rejects.toThrow();
    expect(spans()[0]?.status.code).toBe(SpanStatusCode.ERROR);
    expect(spans()[0]?.events.map(({ name }) => name)).toEqual(["exception"]);
    expect(await values()).toMatchObject({ errors: 1 });
  });

  test("a loss is logged as a warning; console and a logger shaped like pino both fit", async () => {
    const lines: { level: string; facts: object; message: string }[] = [];
    const log = (level: string) => (facts: object, message: string) =>
      void lines.push({ level, facts, message });
    const pinoShaped = { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") };
    const fits: Logger[] = [console, pinoShaped];
    await using _console = createLocker({ sessions, logger: fits[0] as Logger });
    const { locker } = observed({ logger: pinoShaped });
    await using _ = locker;
    const lock = await locker.acquire(uniqueKey());
    await terminateHolder(lock.id);
    const warnings = () => lines.filter(({ level }) => level === "warn");
    await until(() => warnings().length > 0); // Lines are written after the signal has aborted.
    expect(warnings()).toMatchObject([
      { facts: { key: lock.key, id: lock.id.toString() }, message: expect.stringContaining("was lost") },
    ]);
  });
});
