import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { databaseUrl } from "../support/database.ts";

// Each starts several processes, and some a server.
vi.setConfig({ testTimeout: 60_000 });

// What a shell sets up for a command, and a plain child process can't have.

const program = fileURLToPath(new URL("../../dist/cli/start.js", import.meta.url));
const sentence = /^pg-locker: [^\n]+\n$/;

/** Runs a line of sh, in which "$@" is `pg-locker` and a command's arguments. */
function shell(
  line: string,
  args: readonly string[],
): { status: number | null; stdout: string; stderr: string } {
  const env = { PATH: process.env["PATH"], DATABASE_URL: databaseUrl() };
  const all = ["-c", line, "sh", process.execPath, program, ...args];
  return spawnSync("/bin/sh", all, { encoding: "utf8", env, timeout: 60_000 });
}

const commands = [["ls"], ["id", "k"], ["doctor"], ["run", "k", "--", "echo", "ran"]];

describe.each([20, 48])("with %i open files allowed", (limit) => {
  test.each(commands)("all is well, or there is a sentence, and not a stack: %s", (...args) => {
    const { status, stdout, stderr } = shell(`ulimit -n ${limit}; exec "$@"`, args);
    if (limit > 20 && status === 0) return;
    expect([status, stdout]).toEqual([70, ""]);
    expect(stderr).toMatch(sentence);
    expect(stderr).toMatch(/ulimit -n|Cannot find package/);
  });
});

test
  .skipIf(!existsSync("/dev/full"))
  .each([["ls"], ["ls", "--json"], ["id", "k"], ["doctor"], ["who", "k"], ["--help"]])(
  "a full standard output is said in a sentence (skipped without /dev/full): %s %s",
  (...args) => {
    const { status, stderr } = shell(
      'exec "$@" > /dev/full',
      args.filter((each) => each !== undefined),
    );
    expect(status).toBe(70);
    expect(stderr).toBe("pg-locker: Standard output can't be written to (ENOSPC)\n");
  },
);

test("a closed stdout or stderr changes neither what is done nor the exit status", () => {
  expect(shell('exec "$@" >&-', ["ls"])).toMatchObject({ status: 0, stderr: "" });
  expect(shell('exec "$@" >&-', ["who", "no such key"])).toMatchObject({ status: 1, stderr: "" });
  expect(shell('exec "$@" 2>&-', ["ls"])).toMatchObject({
    status: 0,
    stdout: expect.stringContaining("No locks"),
  });
  expect(shell('exec "$@" 2>&-', ["ls", "--url", "mysql://h/d"])).toMatchObject({ status: 64 });
  expect(shell('exec "$@" 2>&-', ["run", "k", "--", "sh", "-c", "exit 7"])).toMatchObject({ status: 7 });
});
