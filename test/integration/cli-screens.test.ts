import { stripVTControlCharacters } from "node:util";
import { expect, test, vi } from "vitest";
import { PostgresLocker } from "../../src/index.ts";
import { type CliOptions, cli, Terminal } from "../support/cli.ts";
import { connect, createPool, databaseUrl, uniqueKey, urlWith } from "../support/database.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

/** Returns the lines on a terminal after a command has drawn on it, as wide as they were written. */
async function screen(args: readonly string[], options: CliOptions): Promise<string[]> {
  await using terminal = Terminal.cli(args, options);
  await terminal.ended;
  return stripVTControlCharacters(terminal.output).trimEnd().split("\r\n");
}

const onDatabase = (columns: number): CliOptions => ({ columns, env: { DATABASE_URL: databaseUrl() } });

test("at 80 columns no line wraps: id and key have a line of their own", async () => {
  const client = await connect({ application_name: "by hand" });
  await client.query("select pg_advisory_lock(5474058546497493485)");
  const narrow = await screen(["ls"], onDatabase(80));
  expect(narrow.filter((line) => line.length > 80)).toEqual([]);
  expect(narrow.slice(narrow.findIndex((line) => line.startsWith("STATE")))).toEqual([
    expect.stringMatching(/^STATE +MODE .* NAMESPACE$/),
    "    ID  KEY",
    expect.stringMatching(/^held +exclusive .* -$/),
    "    5474058546497493485  [by hand]",
  ]);
  const wide = await screen(["ls"], onDatabase(200));
  expect(wide.slice(1)).toEqual([
    expect.stringMatching(/^STATE .* ID +KEY$/),
    expect.stringMatching(/^held .* 5474058546497493485 +\[by hand\]$/),
  ]);
  await client.query("select pg_advisory_unlock_all()");
});

test("doctor wraps its findings at 80 columns, and not at 200", async () => {
  const narrow = await screen(["doctor"], onDatabase(80));
  expect(narrow.filter((line) => line.length > 80)).toEqual([]);
  expect(narrow.join("\n")).toMatch(/^ok {4}server-ttl {3}\S.*\n {19}\S/m);
  const wide = await screen(["doctor"], onDatabase(200));
  expect(wide.join("\n")).toMatch(/^ok {4}server-ttl {3}.*`ttlEnforcement: "server"`\)$/m);
  const refused = { columns: 80, env: { DATABASE_URL: urlWith({ database: "no_such_database" }) } };
  expect((await screen(["doctor"], refused)).filter((line) => line.length > 80)).toEqual([]);
});

test.each([
  ["an argument", ["\u001b[31mx"], "\\u001b[31mx"],
  ["an option", ["ls", "x\u009b31m"], "x\\u009b31m"],
  ["the key of a lock that is held", ["run", "k\u202e\u009b", "--", "true"], "k\\u202e\\u009b"],
  ["a database", ["ls", "--url", urlWith({ database: "no\u202edatabase" })], "no\\u202edatabase"],
  ["a stack", ["ls", "--verbose", "--url", urlWith({ database: "no\u001b[2J" })], "no\\u001b[2J"],
])("%s moves no cursor and hides nothing in a message", async (_, args, shown) => {
  await using locker = new PostgresLocker({ pool: createPool() });
  await using _held = await locker.acquire("k\u202e\u009b");
  const { stderr, status } = await cli(args, { env: { DATABASE_URL: databaseUrl() } });
  expect(status).not.toBe(0);
  expect(stderr).toContain(shown);
  expect(stderr.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
});

test.each([
  ["a command", ['no"such\ncommand'], 'Unknown command "no\\"such\\ncommand"'],
  ["an option", ["run", "--no\nsuch", "--", "true"], "Unknown option --no\\u000asuch"],
  ["a value", ["run", "k", "--ttl", '1"\n', "--", "true"], 'got "1\\"\\n"'],
  ["a word", ["run", "k", "it's\n", "true"], "as in pg-locker run k -- $'it\\'s\\u000a' true"],
])("%s with a line end and a quote stays one word in a message of one line", async (_, args, shown) => {
  const { stderr, status } = await cli(args);
  expect(status).toBe(64);
  expect(stderr).toContain(shown);
  expect(stderr).toMatch(/^[^\n]+\n$/);
});

test.each([
  ["the key of a lock that is held", ["run", "KEY", "--", "true"], 75],
  ["a key without dashes after it", ["run", "KEY", "true"], 64],
  ["a command", ["KEY"], 64],
  ["a command that is not there", ["run", "k", "--", "KEY"], 126],
  ["a word too many", ["id", "k", "KEY"], 64],
  ["an option", ["ls", "--KEY"], 64],
  ["a key that looks like an option", ["id", "-KEY"], 64],
  ["a value", ["run", "k", "--ttl=KEY", "--", "true"], 64],
  ["a value after an option that takes none", ["run", "k", "--wait", "KEY", "--", "true"], 64],
  ["a database", ["ls", "--url", "postgres://127.0.0.1:1/KEY"], 69],
  ["a user", ["ls", "--url", "postgres://KEY@127.0.0.1:1/db"], 69],
  ["a host", ["ls", "--url", "postgres://KEY/db"], 64],
])("%s of 100 kB is not shown in full", async (_, words, expected) => {
  const long = "x".repeat(100_000);
  await using locker = new PostgresLocker({ pool: createPool() });
  await using _held = await locker.acquire(long);
  const args = words.map((word) => word.replace("KEY", long));
  const { stderr, status } = await cli(args, { env: { DATABASE_URL: databaseUrl() } });
  expect([status, stderr.slice(0, 1_000)]).toEqual([expected, stderr]);
});

test("control characters of a role or a folder reach no terminal, but are in JSON", async () => {
  const name = `\u001b[2J${uniqueKey()}`;
  const client = await connect();
  await client.query(`create role ${client.escapeIdentifier(name)} login superuser`);
  try {
    const doctor = await cli(["doctor", "--url", urlWith({ user: name })]);
    expect(doctor).toMatchObject({ status: 0, stderr: "" });
    const server = await cli(["server", "status"], { env: { XDG_STATE_HOME: `/tmp/${name}` } });
    expect(server.stdout).toContain(`/tmp/\\u001b[2J`);
    for (const { stdout } of [doctor, server]) {
      expect(stdout.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    }
    const { stdout } = await cli(["doctor", "--json", "--url", urlWith({ user: name })]);
    expect(JSON.stringify(JSON.parse(stdout))).toContain(JSON.stringify(name).slice(1, -1));
  } finally {
    await client.query(`drop role ${client.escapeIdentifier(name)}`);
    await client.end();
  }
});
