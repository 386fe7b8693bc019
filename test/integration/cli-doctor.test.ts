import { expect, test } from "vitest";
import type { Finding } from "../../src/index.ts";
import { CliChild, cli, Terminal } from "../support/cli.ts";
import { advisoryLocks, createRole, databaseUrl, urlWith } from "../support/database.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// What each line may say is tested in diagnosis.test.ts.

const colour = "\u001b[";
const lastLine = /\n\n(.*)\n$/;

test("doctor prints a line for each check of a fit database, and exits with 0", async () => {
  await using server = await startServer({ settings: { fsync: "on" } });
  const { status, stdout, stderr } = await cli(["doctor", "--url", server.url]);
  expect([status, stderr]).toEqual([0, ""]);
  const [table = ""] = stdout.split("\n\n");
  // How long a round trip takes depends on the machine.
  for (const line of table.split("\n").filter((line) => !/reachable|move closer/.test(line))) {
    expect(line).toMatch(/^ok {4}[a-z-]+ {2,}\S/);
  }
  expect(table).toMatch(/^ok {4}version {6}PostgreSQL \d+/m);
  expect(stdout).toMatch(lastLine);
  expect(lastLine.exec(stdout)?.[1]).toMatch(/^Fit for locks/);
  expect(stdout).not.toContain(colour);
});

test("doctor prints a warning with its advice below, and exits with 0", async () => {
  await using role = await createRole({ settings: { idle_in_transaction_session_timeout: "1min" } });
  const { status, stdout } = await cli(["doctor", "--url", role.url]);
  expect(status).toBe(0);
  expect(stdout).toMatch(
    /^warn {2}timeouts {5}idle_in_transaction_session_timeout = 1m0s \(of the role\)\n {19}idle_in.*withTransaction/m,
  );
  expect(lastLine.exec(stdout)?.[1]).toMatch(/^Fit for locks, with \d warnings?$/);
  expect(stdout).not.toContain("secret");
});

test("doctor fails for a pooler that shares sessions, and exits with 1", async () => {
  await using pooler = await ImitatedPooler.start(databaseUrl(), "transaction");
  const { status, stdout } = await cli(["doctor"], { env: { DATABASE_URL: pooler.url } });
  expect(status).toBe(1);
  expect(stdout).toMatch(/^FAIL {2}pooler {7}a pooler gives each transaction/m);
  expect(stdout).toMatch(/^ {19}Connect to the server's own port/m);
  expect(lastLine.exec(stdout)?.[1]).toBe("Not fit for locks: 2 lines fail");
  expect(await advisoryLocks()).toEqual([]);
});

test("doctor shows a server that refuses as a failed line without the password, exit 1", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await proxy.refuse();
  const url = new URL(proxy.url);
  [url.username, url.password] = ["alice", "hunter2"];
  const { status, stdout, stderr } = await cli(["doctor", "--url", url.href, "--verbose"]);
  expect([status, stderr]).toEqual([1, ""]);
  expect(stdout).toMatch(
    /^ok {4}database {3}\S+ on 127.0.0.1:\d+, as alice \(--url\)\nFAIL {2}reachable {2}Connecting failed: .*ECONNREFUSED/,
  );
  expect(lastLine.exec(stdout)?.[1]).toBe("Not fit for locks: 1 line fails");
  expect(stdout + stderr).not.toContain("hunter2");
});

test("doctor fails for a frozen server, and the process ends", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  proxy.freeze();
  const { status, stdout } = await cli(["doctor", "--url", proxy.url]);
  expect(status).toBe(1);
  expect(stdout).toMatch(/^FAIL {2}reachable {2}Connecting failed: no answer within 5000 ms/m);
});

test("doctor fails for a server that freezes in the meantime, and the process ends", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  proxy.delay(100);
  await using child = CliChild.start(["doctor", "--url", proxy.url]);
  await until(() => proxy.size > 0, { deadline: 15_000 });
  proxy.freeze();
  const { status, stdout } = await child.ended;
  expect(status).toBe(1);
  expect(stdout).toMatch(/^FAIL {2}.*no answer within 5000 ms/m);
});

test("doctor --json prints the findings, and exits with the same status", async () => {
  const { status, stdout } = await cli(["doctor", "--url", databaseUrl(), "--json"]);
  const findings = JSON.parse(stdout) as Finding[];
  expect(status).toBe(0);
  expect(findings).toHaveLength(15);
  expect(findings[0]).toMatchObject({
    check: "database",
    found: expect.stringMatching(/^pg_locker_\w+ on /),
  });
  expect(findings[2]).toMatchObject({ check: "version", verdict: "ok" });
  const missing = await cli(["doctor", "--url", urlWith({ database: "no_such_database" }), "--json"]);
  expect(missing.status).toBe(1);
  expect(JSON.parse(missing.stdout)).toMatchObject([
    { check: "database", found: expect.stringMatching(/^no_such_database on /) },
    { check: "reachable", verdict: "fail" },
  ]);
});

test("doctor prints colours in a terminal, unless NO_COLOR is set", async () => {
  const args = ["doctor", "--url", databaseUrl()];
  await using terminal = Terminal.cli(args);
  await terminal.shows("Fit for locks");
  expect((await terminal.ended).status).toBe(0);
  expect(terminal.output).toContain(`${colour}32mok`);
  await using plain = Terminal.cli(args, { env: { NO_COLOR: "1" } });
  await plain.shows("Fit for locks");
  await plain.ended;
  expect(plain.output).not.toContain(`${colour}3`);
});

test("doctor refuses a key as an unexpected argument", async () => {
  const { status, stderr } = await cli(["doctor", "nightly", "--url", databaseUrl()]);
  expect(status).toBe(64);
  expect(stderr).toContain('Unexpected "nightly"');
});
