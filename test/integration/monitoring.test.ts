import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { MeterProvider } from "@opentelemetry/api";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { PostgresLocker } from "../../src/index.ts";
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
import { createLocker } from "../support/locker.ts";
import { snippetsOf } from "../support/snippets.ts";
import { until } from "../support/until.ts";

const docs = fileURLToPath(new URL("../../docs/", import.meta.url));
let installed: InstalledPackage;

beforeAll(async () => {
  installed = await InstalledPackage.of("monitoring");
}, 120_000);

afterAll(() => installed?.[Symbol.asyncDispose]());

/** The parts of OpenTelemetry's own packages that are needed. */
interface Exporter {
  getMetricsRequestHandler(request: object, response: object): void;
  shutdown(): Promise<void>;
}

/** The lines that Prometheus would be served for what was recorded. */
async function exposition(record: (meterProvider: MeterProvider) => Promise<void>): Promise<string[]> {
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
    await record(meterProvider);
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

/** Records one of each. */
async function everything(meterProvider: MeterProvider): Promise<void> {
  const locker = createLocker({ meterProvider });
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
  await using failing = createLocker({ pool: nowhere, meterProvider });
  await failing.acquire(uniqueKey()).catch(() => {});
}

/** Records what the Go package does: without units and attributes. */
async function asGo(meterProvider: MeterProvider): Promise<void> {
  const meter = meterProvider.getMeter("postgres_distributed_lock");
  for (const name of ["acquires", "releases", "refreshes", "contended", "errors"]) {
    meter.createCounter(prefix + name).add(1);
  }
  meter.createHistogram(`${prefix}latency_ms`).record(2);
}

let everythingServed: Promise<string[]> | undefined;

function ofOurs(): Promise<string[]> {
  everythingServed ??= exposition(everything);
  return everythingServed;
}

interface Series {
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
}

const labelsIn = (text: string) => [...text.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)];

/** What Prometheus stores for the lines; it adds the job itself. */
function seriesOf(lines: readonly string[]): Series[] {
  return lines.flatMap((line) => {
    const [, name, labels = ""] = line.match(/^(postgres_distributed_lock_\w+)\{(.*)\} /) ?? [];
    if (name === undefined) return [];
    const entries = labelsIn(labels).map(([, label = "", , value = ""]) => [label, value] as const);
    return [{ name, labels: new Map([...entries, ["job", "api"]]) }];
  });
}

/** The selectors of an expression, such as `acquires_total{job=~"$job"}`; selectors with a job of their own are examples. */
function selectorsIn(expression: string): { name: string; selects(series: Series): boolean }[] {
  return [...expression.matchAll(/(postgres_distributed_lock_\w+)(?:\{([^}]*)\})?/g)].map(
    ([, name = "", text = ""]) => ({
      name,
      selects: (series) =>
        series.name === name &&
        labelsIn(text).every(([, label = "", how, value = ""]) => {
          if (label === "job") return true;
          const got = series.labels.get(label) ?? "";
          return how === "=" ? got === value : how === "=~" && new RegExp(`^(?:${value})$`).test(got);
        }),
    }),
  );
}

/** A wait that goes on after its session in the server was ended. */
async function rideOutFault(locker: PostgresLocker): Promise<void> {
  await using elsewhere = createLocker();
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
  const lines = await ofOurs();
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
  // Like the Go package's.
  expect(families).toContain(`${prefix}latency_ms`);
  expect(lines.filter((line) => line.startsWith("# UNIT") && line.includes("_ms "))).toEqual([]);
  const operations = lines.flatMap((line) => line.match(/_count\{operation="(\w+)"/)?.[1] ?? []);
  expect(operations.sort()).toEqual(["acquire", "close", "ping", "refresh", "release"]);
});

test("each query of the dashboard and the alerts finds the series of Go and ours", async () => {
  const ours = seriesOf(await ofOurs());
  const go = seriesOf(await exposition(asGo));
  const dashboard = await readFile(join(docs, "monitoring/dashboard.json"), "utf8");
  const alerts = await readFile(join(docs, "monitoring/alerts.yml"), "utf8");
  const selectors = [
    ...dashboard.matchAll(/"expr": "(.*)"/g),
    ...alerts.matchAll(/expr: ((?:.|\n)*?)\n {8}\w/g),
  ].flatMap(([, expression = ""]) => selectorsIn(expression.replaceAll('\\"', '"')));
  expect(selectors.length).toBeGreaterThan(20);
  const inGo = new Set(go.map(({ name }) => name));
  expect(inGo.size).toBe(8);
  for (const { name, selects } of selectors) {
    expect(ours.some(selects), `${name} of ours`).toBe(true);
    if (inGo.has(name)) expect(go.some(selects), `${name} of Go`).toBe(true);
  }
  // A number in Go, a string here, so neither is in a query.
  expect(`${dashboard}${alerts}`).not.toContain("lock.id");
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
