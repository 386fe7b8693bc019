import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { MeterProvider } from "@opentelemetry/api";
import { afterAll, beforeAll, expect, test } from "vitest";
import { PostgresLocker } from "../../src/index.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { freePort } from "../support/free-port.ts";
import { InstalledPackage } from "../support/installed-package.ts";
import { snippetsOf } from "../support/snippets.ts";
import { until } from "../support/until.ts";

const docs = fileURLToPath(new URL("../../docs/", import.meta.url));
let installed: InstalledPackage;

beforeAll(async () => {
  installed = await InstalledPackage.of("monitoring");
}, 120_000);

afterAll(() => installed?.[Symbol.asyncDispose]());

/** What is needed of OpenTelemetry's own. */
interface Exporter {
  getMetricsRequestHandler(request: object, response: object): void;
  shutdown(): Promise<void>;
}

/** The lines that Prometheus is served after one of each has happened. */
async function exposition(): Promise<string[]> {
  const { PrometheusExporter } = installed.require<{
    PrometheusExporter: new (options: object) => Exporter;
  }>("@opentelemetry/exporter-prometheus");
  const sdk = installed.require<{ MeterProvider: new (options: object) => MeterProvider }>(
    "@opentelemetry/sdk-metrics",
  );
  const exporter = new PrometheusExporter({ preventServerStart: true });
  const meterProvider = new sdk.MeterProvider({ readers: [exporter] });
  const server = createServer((request, response) => exporter.getMetricsRequestHandler(request, response));
  try {
    const locker = new PostgresLocker({ pool: createPool(), meterProvider });
    const lock = await locker.acquire(uniqueKey());
    await locker.tryAcquire(lock.key);
    await lock.refresh();
    await lock.release();
    const lost = await locker.acquire(uniqueKey());
    await onServer("select pg_terminate_backend($1)", [(await holdersOf(lost.id))[0]]);
    await until(() => lost.signal.aborted);
    await rideOutFault(locker);
    await locker.ping();
    await locker.close();
    const nowhere = createPool({ connectionString: "postgres://postgres@127.0.0.1:1/postgres" });
    await using failing = new PostgresLocker({ pool: nowhere, meterProvider });
    await failing.acquire(uniqueKey()).catch(() => {});
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    return (await response.text()).split("\n");
  } finally {
    server.closeAllConnections();
    server.close();
    await exporter.shutdown();
  }
}

/** A wait goes on after its session in the server was ended. */
async function rideOutFault(locker: PostgresLocker): Promise<void> {
  await using elsewhere = new PostgresLocker({ pool: createPool() });
  const lock = await elsewhere.acquire(uniqueKey(), { autoRefresh: true });
  const waiting = locker.acquire(lock.key, { wait: true });
  const waiters = async () => (await advisoryLocks()).filter(({ granted }) => !granted);
  const [first] = await until(async () => {
    const found = await waiters();
    return found.length > 0 && found;
  });
  await onServer("select pg_terminate_backend($1)", [first?.pid]);
  await until(async () => (await waiters()).some(({ pid }) => pid !== first?.pid), { deadline: 15_000 });
  await lock.release();
  await (await waiting).release();
}

const prefix = "postgres_distributed_lock_";
const namesIn = (text: string): string[] => [
  ...new Set([...text.matchAll(/\bpostgres_distributed_lock_\w+/g)].map(([name]) => name)),
];

test("the page, the dashboard and the alerts name exactly what Prometheus is served", async () => {
  const lines = await exposition();
  const families = lines.flatMap((line) => line.match(/^# TYPE (postgres_distributed_lock_\S+)/)?.[1] ?? []);
  const series = new Set(
    lines.flatMap((line) => line.match(/^(postgres_distributed_lock_\w+)\{/)?.[1] ?? []),
  );
  const page = await readFile(join(docs, "monitoring.md"), "utf8");
  expect(namesIn(page).sort()).toEqual([...families].sort());
  for (const file of ["monitoring/dashboard.json", "monitoring/alerts.yml"]) {
    const used = namesIn(await readFile(join(docs, file), "utf8"));
    expect(used.length).toBeGreaterThan(3);
    expect(used.filter((name) => !series.has(name))).toEqual([]);
  }
  // As the Go package's.
  expect(families).toContain(`${prefix}latency_ms`);
  expect(lines.filter((line) => line.startsWith("# UNIT") && line.includes("_ms "))).toEqual([]);
  const operations = lines.flatMap((line) => line.match(/_count\{operation="(\w+)"/)?.[1] ?? []);
  expect(operations.sort()).toEqual(["acquire", "close", "ping", "refresh", "release"]);
});

test("Grafana reads the dashboard: each panel has a place, a source and queries", async () => {
  const dashboard = JSON.parse(await readFile(join(docs, "monitoring/dashboard.json"), "utf8")) as {
    panels: { id: number; title: string; gridPos: object; targets: { expr: string; refId: string }[] }[];
  };
  expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
  for (const { title, gridPos, targets } of dashboard.panels) {
    expect(gridPos, title).toMatchObject({ h: 8, w: 12 });
    expect(targets.length, title).toBeGreaterThan(0);
    for (const { expr } of targets) expect(expr.split("(").length, expr).toBe(expr.split(")").length);
  }
});

test("the page's own lines run as they are printed", async () => {
  const snippets = (await snippetsOf("docs/monitoring.md")).filter(({ language }) => language === "ts");
  expect(snippets).toHaveLength(1);
  const compilerOptions = {
    target: "es2022",
    lib: ["es2023", "esnext.disposable", "dom"],
    module: "nodenext",
    strict: true,
    skipLibCheck: true,
    typeRoots: [fileURLToPath(new URL("../../node_modules/@types", import.meta.url))],
    types: ["node"],
  };
  await writeFile(join(installed.folder, "page.ts"), snippets[0]?.code ?? "");
  await writeFile(
    join(installed.folder, "tsconfig.json"),
    JSON.stringify({ compilerOptions, files: ["page.ts"] }),
  );
  await installed.compile();
  const env = { DATABASE_URL: databaseUrl(), METRICS_PORT: String(await freePort()) };
  const { stdout } = await installed.node(["page.js"], env);
  expect(stdout).toContain("shows this lock as held");
});
