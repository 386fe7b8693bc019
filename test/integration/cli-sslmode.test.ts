import { spawnSync } from "node:child_process";
import { chmod, chown, copyFile, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { PostgresServer } from "../../src/testing/index.ts";
import { cli } from "../support/cli.ts";
import { databaseUrl } from "../support/database.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

// A server that accepts only encrypted connections, with a certificate of its own for "localhost".

const withoutOpenssl = spawnSync("openssl", ["version"]).error !== undefined;
let server: PostgresServer;
let home: string;
let port: string;
let root: string;

beforeAll(async () => {
  if (withoutOpenssl) return;
  home = await mkdtemp(join(tmpdir(), "pg-locker-tls-"));
  server = await startServer();
  port = new URL(server.url).port;
  const [key, certificate] = ["key.pem", "certificate.pem"].map((name) => join(server.dataDirectory, name));
  const args = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
  const names = [
    "-addext",
    "subjectAltName=DNS:localhost",
    "-keyout",
    String(key),
    "-out",
    String(certificate),
  ];
  expect(spawnSync("openssl", [...args, ...names]).status).toBe(0);
  const { uid, gid } = await stat(server.dataDirectory);
  for (const file of [key, certificate]) {
    await chmod(String(file), 0o600);
    await chown(String(file), uid, gid);
  }
  root = join(home, "root.pem");
  await writeFile(root, await readFile(String(certificate)));
  const admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  await admin.query("alter system set ssl_key_file to 'key.pem'");
  await admin.query("alter system set ssl_cert_file to 'certificate.pem'");
  await admin.query("alter system set ssl to 'on'");
  await writeFile(join(server.dataDirectory, "pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n");
  await admin.query("select pg_reload_conf()");
  await admin.end();
  await until(async () => /no encryption/.test((await ls({})).stderr), { deadline: 20_000, interval: 200 });
}, 60_000);

afterAll(async () => {
  if (withoutOpenssl) return;
  await server[Symbol.asyncDispose]();
  await rm(home, { recursive: true });
});

function ls(env: Readonly<Record<string, string>>, query = "", host = "localhost") {
  const url = `postgres://postgres@${host}:${port}/postgres${query}`;
  return cli(["ls"], { env: { DATABASE_URL: url, HOME: home, ...env } });
}

describe.skipIf(withoutOpenssl)("sslmode (skipped without openssl)", () => {
  test.each<[string, () => ReturnType<typeof ls>]>([
    ["require", () => ls({}, "?sslmode=require")],
    ["require, by PGSSLMODE", () => ls({ PGSSLMODE: "require" })],
    ["require, by PGREQUIRESSL", () => ls({ PGREQUIRESSL: "1" })],
    ["prefer", () => ls({ PGSSLMODE: "prefer" })],
    ["allow, once it was refused in clear", () => ls({ PGSSLMODE: "allow" })],
    ["TLS 1.3 alone", () => ls({ PGSSLMODE: "require", PGSSLMINPROTOCOLVERSION: "TLSv1.3" })],
    ["TLS 1.2 at most", () => ls({ PGSSLMODE: "require", PGSSLMAXPROTOCOLVERSION: "TLSv1.2" })],
    ["no-verify", () => ls({}, "?sslmode=no-verify")],
    ["verify-ca, by an address", () => ls({ PGSSLMODE: "verify-ca", PGSSLROOTCERT: root }, "", "127.0.0.1")],
    ["verify-full", () => ls({}, `?sslmode=verify-full&sslrootcert=${root}`)],
    [
      "verify-full, by an address beside the name",
      () => ls({ PGSSLMODE: "verify-full", PGSSLROOTCERT: root, PGHOSTADDR: "127.0.0.1" }),
    ],
  ])("%s connects, without a word on standard error", async (_, connect) => {
    const { status, stdout, stderr } = await connect();
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("No locks");
  });

  test.each<[string, () => ReturnType<typeof ls>, RegExp]>([
    ["verify-full without a root", () => ls({}, "?sslmode=verify-full"), /self-signed/],
    ["verify-ca without a root", () => ls({}, "?sslmode=verify-ca"), /self-signed/],
    ["ssl=true", () => ls({}, "?ssl=true"), /self-signed/],
    [
      "verify-full by an address",
      () => ls({}, `?sslmode=verify-full&sslrootcert=${root}`, "127.0.0.1"),
      /altnames/,
    ],
    ["disable", () => ls({}, "?sslmode=disable"), /no encryption/],
  ])("%s is refused in one line, with 69", async (_, connect, reason) => {
    const { status, stderr } = await connect();
    expect(status).toBe(69);
    expect(stderr).toMatch(reason);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  });

  test.skipIf(spawnSync("psql", ["--version"]).error !== undefined)(
    "connects when psql does, for each mode and file of roots (skipped without psql)",
    async () => {
      const strange = join(home, "strange.pem");
      const args = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"];
      expect(spawnSync("openssl", [...args, "-keyout", join(home, "x"), "-out", strange]).status).toBe(0);
      const modes = ["allow", "prefer", "require", "verify-ca", "verify-full"];
      const homes = await Promise.all(
        [undefined, root, strange].map(async (file) => {
          const folder = await mkdtemp(join(home, "home-"));
          await mkdir(join(folder, ".postgresql"));
          if (file !== undefined) await copyFile(file, join(folder, ".postgresql", "root.crt"));
          return { HOME: folder };
        }),
      );
      const named = [root, strange].map((file) => ({ HOME: home, PGSSLROOTCERT: file }));
      const all = [...homes, ...named].flatMap((env) => modes.map((PGSSLMODE) => ({ ...env, PGSSLMODE })));
      const url = `postgres://postgres@localhost:${port}/postgres`;
      const psqls = all.map((env) =>
        spawnSync("psql", [url, "-c", "select 1"], { env: { PATH: process.env["PATH"], ...env } }),
      );
      // One after the other, because a busy machine is a reason not to connect.
      for (const [at, env] of all.entries()) {
        const { status, stderr } = await ls(env);
        const psql = psqls[at];
        expect([env, status === 0, stderr]).toEqual([env, psql?.status === 0, stderr]);
      }
    },
  );

  test("run is as silent, and encrypts", async () => {
    const url = `postgres://postgres@localhost:${port}/postgres?sslmode=require`;
    const env = { DATABASE_URL: url, HOME: home };
    const ran = await cli(["run", "k", "--", "echo", "ran"], { env });
    expect(ran).toMatchObject({ status: 0, stdout: "ran\n", stderr: "" });
  });
});

test("if the server has no TLS, prefer connects unencrypted, and require fails", async () => {
  const url = databaseUrl();
  expect(await cli(["ls"], { env: { DATABASE_URL: url, PGSSLMODE: "prefer" } })).toMatchObject({
    status: 0,
    stderr: "",
  });
  const { status, stderr } = await cli(["ls"], { env: { DATABASE_URL: url, PGSSLMODE: "require" } });
  expect([status, stderr]).toEqual([69, expect.stringContaining("does not support SSL")]);
});
