import { stripVTControlCharacters } from "node:util";
import { expect, test, vi } from "vitest";
import { type CliOptions, Terminal } from "../support/cli.ts";
import { connect, databaseUrl, urlWith } from "../support/database.ts";

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
