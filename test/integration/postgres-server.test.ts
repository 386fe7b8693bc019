import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, inject, test, vi } from "vitest";
import { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { Child } from "../support/child.ts";
import { connect } from "../support/database.ts";
import { until } from "../support/until.ts";

const major = inject("postgresMajor");
let server: PostgresServer;

beforeAll(async () => {
  server = await PostgresServer.start({ major, settings: { max_connections: 7, application_name: "it's" } });
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

test("a server has the major version and the settings that were asked for", async () => {
  expect(await value("current_setting('server_version_num')::int / 10000")).toBe(major);
  expect(await value("current_setting('max_connections')")).toBe("7");
  expect(await value("reset_val", "from pg_settings where name = 'application_name'")).toBe("it's");
});

test.each(["fast", "immediate", "smart"] as const)(
  "a server keeps its port and data over a restart (%s)",
  async (mode) => {
    const { port, pid } = server;
    const session = await connect({ connectionString: server.url });
    await session.query("create table if not exists kept ()");
    await session.end();
    await server.restart({ mode });
    expect(server.port).toBe(port);
    expect(server.pid).not.toBe(pid);
    expect(await value("to_regclass('kept')::text")).toBe("kept");
  },
);

test("a server starts again after a SIGKILL, though its sessions are still ending", async () => {
  const session = await connect({ connectionString: server.url });
  await session.query("select 1");
  await server.kill();
  expect(server.pid).toBeUndefined();
  await server.resume();
  expect(await value("1")).toBe(1);
});

test("a second stop, and a resume while the server runs, do nothing", async () => {
  const { pid } = server;
  await server.resume();
  expect(server.pid).toBe(pid);
  await server.stop();
  await server.stop();
  await expect(connect({ connectionString: server.url })).rejects.toThrow("ECONNREFUSED");
  await server.resume();
});

test("a server asks members of the role `password_required` for their password", async () => {
  const session = await connect({ connectionString: server.url });
  await session.query("create role password_required");
  await session.query("create role alice login password 'secret' in role password_required");
  const as = (password: string) =>
    connect({ connectionString: server.url.replace("postgres@", `alice:${password}@`) });
  await expect(as("wrong")).rejects.toMatchObject({ code: "28P01" });
  expect((await (await as("secret")).query("select current_user as name")).rows).toEqual([{ name: "alice" }]);
});

test("a server that can't start says why, with the end of its log", async () => {
  const settings = { no_such_setting: 1 };
  await expect(PostgresServer.start({ major, settings })).rejects.toThrow("no_such_setting");
});

test("PostgreSQL is found even from a working directory that has been deleted", () => {
  const testing = fileURLToPath(new URL("../../dist/cjs/testing/index.js", import.meta.url));
  const program = `
    const { mkdtempSync, rmdirSync } = require("node:fs");
    const folder = mkdtempSync(process.argv[1]);
    process.chdir(folder);
    rmdirSync(folder);
    console.log(require(${JSON.stringify(testing)}).isPostgresInstalled());`;
  const args = ["-e", program, join(tmpdir(), "pg-locker-deleted-")];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  expect([stdout, stderr]).toEqual(["true\n", ""]);
});

test("servers are copies of INITDB_TEMPLATE, if that has their major version", async () => {
  // The run's template: initdb gives each data directory an identifier of its own.
  const identifier = "(select system_identifier::text from pg_control_system())";
  await using twin = await PostgresServer.start({ major });
  expect(await value(identifier, "", twin)).toBe(await value(identifier));
  const old = await mkdtemp(join(tmpdir(), "pg-locker-test-"));
  try {
    await writeFile(join(old, "PG_VERSION"), "9.6\n");
    vi.stubEnv("INITDB_TEMPLATE", old);
    await using other = await PostgresServer.start({ major });
    expect(await value(identifier, "", other)).not.toBe(await value(identifier));
  } finally {
    vi.unstubAllEnvs();
    await rm(old, { recursive: true });
  }
});

test("a server leaves no process and no file when it is disposed of", async () => {
  const other = await PostgresServer.start({ major });
  const { pid, dataDirectory } = other;
  await other[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  expect(existsSync(dirname(dataDirectory))).toBe(false);
  expect(() => process.kill(Number(pid), 0)).toThrow("ESRCH");
  await expect(other.resume()).rejects.toThrow("disposed");
});

test.each(["SIGKILL", "SIGTERM"] as const)(
  "a server leaves nothing when its process ends by %s",
  async (signal) => {
    await using child = Child.start("server.mjs", { args: [String(major)] });
    const started = (await child.message((message) => "url" in message)) as {
      url: string;
      directory: string;
    };
    child.signal(signal);
    await child.exited;
    await until(() => !existsSync(started.directory));
    await expect(connect({ connectionString: started.url })).rejects.toThrow("ECONNREFUSED");
  },
);

async function value(expression: string, from = "", { url } = server): Promise<unknown> {
  const session = await connect({ connectionString: url });
  const { rows } = await session.query<{ value: unknown }>(`select ${expression} as value ${from}`);
  await session.end();
  return rows[0]?.value;
}
