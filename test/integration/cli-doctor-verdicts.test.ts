import pg from "pg";
import { expect, test, vi } from "vitest";
import { cli } from "../support/cli.ts";
import { databaseUrl, uniqueKey } from "../support/database.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { startServer } from "../support/start-server.ts";
import { makeCommitsWait } from "../support/synchronous-standby.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

// What doctor says about a database, and what run does there with the same options.

/** Asserts both, and that doctor prints a line that matches `line`. */
async function both(
  url: string,
  { options = [], fits, line }: { options?: readonly string[]; fits: boolean; line: RegExp },
): Promise<void> {
  const env = { DATABASE_URL: url };
  const examined = await cli(["doctor", ...options], { env });
  expect(examined).toMatchObject({ status: fits ? 0 : 1, stderr: "" });
  expect(examined.stdout).toMatch(line);
  const ran = await cli(["run", uniqueKey(), ...options, "--", "echo", "ran"], { env });
  expect([ran.status === 0, ran.stdout]).toEqual(fits ? [true, "ran\n"] : [false, ""]);
}

test("without a synchronous standby, doctor and run fail, except with --no-fencing", async () => {
  await using server = await startServer();
  const admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  try {
    await makeCommitsWait(server.url);
    await both(server.url, { options: ["--no-fencing"], fits: true, line: /^ok {4}fencing +not checked/m });
    await both(server.url, { fits: false, line: /^FAIL {2}fencing +a token waits.*\n +.*--no-fencing/m });
    await admin.query("alter system reset synchronous_standby_names");
    await admin.query("select pg_reload_conf()");
  } finally {
    await admin.end();
  }
}, 40_000);

test("if the role may not draw tokens, doctor and run fail, except with --no-fencing", async () => {
  await using server = await startServer();
  const admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  try {
    await admin.query("create role app login");
    await admin.query("revoke execute on function pg_walfile_name(pg_lsn) from public");
    const url = new URL(server.url);
    url.username = "app";
    await both(url.href, { fits: false, line: /^FAIL {2}fencing +the role may not call pg_walfile_name/m });
    await both(url.href, { options: ["--no-fencing"], fits: true, line: /^ok {4}fencing/m });
  } finally {
    await admin.end();
  }
}, 40_000);

test("behind a session pooler, doctor and run fail, except with --pooler=session", async () => {
  await using pooler = await ImitatedPooler.start(databaseUrl(), "session");
  await both(pooler.url, {
    fits: false,
    line: /^FAIL {2}pooler +.*locks are refused here\n.*--pooler=session/m,
  });
  await both(pooler.url, {
    options: ["--pooler=session"],
    fits: true,
    line: /^ok {4}pooler +backend \d+ was announced/m,
  });
}, 30_000);

test.each([["doctor"], ["run", "k"]])("--pooler accepts only two values: %s", async (...args) => {
  const rest = args.length > 1 ? ["--", "true"] : [];
  const { status, stderr } = await cli([...args, "--pooler=transaction", ...rest], {
    env: { DATABASE_URL: databaseUrl() },
  });
  expect([status, stderr]).toEqual([
    64,
    'pg-locker: Expected --pooler to be refuse or session, got "transaction"\n',
  ]);
});
