import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CliChild, cli } from "../support/cli.ts";
import { connect, databaseUrl, uniqueKey, urlWith } from "../support/database.ts";

test("the demo kills two holders, sees two take-overs and no overlap, and exits with 0", async () => {
  const { status, stdout, stderr } = await cli(["demo"], { env: { DATABASE_URL: databaseUrl() } });
  expect(status, stdout + stderr).toBe(0);
  expect(stdout).toMatch(/^ {2}turns +\d+: \d+ finished, 2 killed in mid-work$/m);
  expect(stdout).toMatch(/^ {2}take-over +[\d.]+ ms, [\d.]+ ms from the kill to the next holder$/m);
  expect(stdout).toMatch(/^0 overlaps$/m);
  expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
});

test("a database that fails during the demo is told in a line, which moves no cursor", async () => {
  const name = `\u001b[2J\u009b${uniqueKey()}`;
  const client = await connect();
  const role = client.escapeIdentifier(name);
  // Enough for the check at the start, and not for three processes.
  await client.query(`create role ${role} login connection limit 1`);
  try {
    const { status, stdout, stderr } = await cli(["demo", "--url", urlWith({ user: name })]);
    expect([status, stderr]).toEqual([1, ""]);
    expect(stdout).toMatch(
      /^ {2}WRONG +worker \d failed: .*too many connections for role "\ufffd\[2J\ufffd.*"$/m,
    );
    expect(stdout.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
  } finally {
    await client.query(`drop role ${role}`);
    await client.end();
  }
});

test("a database that the demo can't reach exits with 69, without its password", async () => {
  const { status, stderr } = await cli(["demo", "--url", "postgres://app:secret@127.0.0.1:1/app"]);
  expect(status).toBe(69);
  expect(stderr).toMatch(/^pg-locker: .*ECONNREFUSED.*\n$/);
  expect(stderr).not.toContain("secret");
});

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
  ["SIGQUIT", 131],
] as const)("%s ends the demo, and its files are removed", async (signal, expected) => {
  const folder = mkdtempSync(join(tmpdir(), "pg-locker-demo-test-"));
  try {
    await using demo = CliChild.start(["demo"], { env: { DATABASE_URL: databaseUrl(), TMPDIR: folder } });
    await demo.says("Working");
    expect(readdirSync(folder)).toHaveLength(1);
    demo.signal(signal);
    expect(await demo.ended).toMatchObject({ status: expected, stderr: "" });
    expect(readdirSync(folder)).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
