import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { cli } from "../support/cli.ts";

test("pg-locker --help names every command, and fits a screen", async () => {
  const { status, stdout } = await cli(["--help"]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^ {2}id +\S/m);
  expectScreen(stdout);
});

test("without a command, the help is shown, with the status of wrong usage", async () => {
  const { status, stdout } = await cli([]);
  expect([status, stdout]).toEqual([64, (await cli(["--help"])).stdout]);
});

test("the help of each command fits a screen, and shows one example", async () => {
  const { stdout } = await cli(["--help"]);
  const commands = [...stdout.matchAll(/^ {2}(\w+) {2,}\S/gm)].map((line) => line[1] ?? "");
  expect(commands.length).toBeGreaterThan(0);
  for (const command of commands) {
    const { status, stdout: help } = await cli([command, "--help"]);
    expect(status).toBe(0);
    expect(help.match(/^Example:\n {2}pg-locker /gm)).toHaveLength(1);
    expectScreen(help);
  }
});

test("there are three ways to get the help of a command", async () => {
  const { stdout: help } = await cli(["id", "--help"]);
  expect(await cli(["id", "-h"])).toMatchObject({ status: 0, stdout: help });
  expect(await cli(["help", "id"])).toMatchObject({ status: 0, stdout: help });
});

test("pg-locker --version prints the package's version", async () => {
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  expect((await cli(["--version"])).stdout).toBe(`${version}\n`);
});

test.each([
  ["an unknown command", ["idd", "x"], 'Unknown command "idd": did you mean id?'],
  ["one that is like none", ["nightly"], 'Unknown command "nightly": see pg-locker --help'],
  ["the help of an unknown command", ["help", "idd"], 'Unknown command "idd": did you mean id?'],
  ["what others call it", ["lock", "k"], 'Unknown command "lock": did you mean pg-locker run?'],
  ["unlock", ["unlock", "k"], 'Unknown command "unlock": did you mean pg-locker break?'],
  ["version", ["version"], 'Unknown command "version": did you mean pg-locker --version?'],
  [
    "a command without --",
    ["run", "k", "ls", "-la"],
    'Unexpected "ls": put -- before the command, as in pg-locker run k -- ls -la',
  ],
  [
    "a command without -- in which a word comes twice",
    ["run", "k", "git", "add", "git"],
    "as in pg-locker run k -- git add git\n",
  ],
  [
    "a command without -- that has options, after --key",
    ["run", "--key", "-k", "ls", "-la"],
    "put -- before the command, as in pg-locker run --key -k -- ls -la",
  ],
  ["--key for a command that takes no key", ["ls", "--key", "k"], "Unknown option --key: see pg-locker ls"],
  ["a key and --key", ["id", "--key", "-x", "y"], 'Unexpected "y": pg-locker id KEY'],
  [
    "a duration that is none",
    ["run", "k", "--ttl", "5 s", "--", "true"],
    "Expected --ttl to be a duration such as",
  ],
  ["one below 0", ["run", "k", "--wait=-5s", "--", "true"], "Expected --wait to be a duration such as"],
  ["an option before the command", ["--json", "ls"], 'Expected a command, got "--json"'],
  ["an unknown short option", ["id", "x", "-j"], "Unknown option -j: see pg-locker id --help"],
  [
    "an option that is like none",
    ["id", "x", "--frobnicate"],
    "Unknown option --frobnicate: see pg-locker id",
  ],
  [
    "a value that should come behind =",
    ["run", "--wait", "10s", "k", "--", "true"],
    'Unexpected "10s" after --wait: a value is given as --wait=10s',
  ],
  [
    "a bare number in the place of a duration",
    ["run", "k", "--wait=10", "--", "true"],
    'Expected --wait to be a duration such as "30s" or "1m30s", got "10": for seconds, write 10s',
  ],
  [
    "a command without --, of words with blanks",
    ["run", "k", "sh", "-c", "it's on"],
    `put -- before the command, as in pg-locker run k -- sh -c 'it'\\''s on'`,
  ],
  ["a run without a command", ["run", "k"], "Expected -- and a command after it: pg-locker run KEY"],
  ["one without a key", ["run", "--", "true"], "Expected a key: pg-locker run KEY"],
  ["a second --", ["run", "k", "--", "--", "x"], "Expected a command after --, got a second --"],
  ["an empty command", ["run", "k", "--", ""], "Expected a command after --, got nothing"],
  ["a key that looks like an option", ["id", "-k"], "Unknown option -k: if it is the key, --key -k"],
  ["a second --url", ["ls", "--url", "a", "--url=b"], "--url is given twice, with two values"],
  ["a second --namespace", ["id", "k", "--namespace=1", "--namespace=2"], "--namespace is given twice"],
  ["a second --key", ["id", "--key=a", "--key=b"], "--key is given twice, with two values"],
  [
    "an exit status that is none",
    ["run", "k", "-E", "300", "--", "true"],
    "Expected -E to be an exit status",
  ],
  [
    "an unknown option",
    ["id", "x", "--namespce", "7"],
    "Unknown option --namespce: did you mean --namespace?",
  ],
  ["an option without its value", ["id", "x", "--namespace"], "--namespace needs a value"],
  ["an option in the place of a value", ["id", "--namespace", "--json"], "--namespace needs a value"],
  ["a value that an option doesn't take", ["id", "x", "--json=yes"], '--json takes no value, but got "yes"'],
  ["no key", ["id"], "Expected a key: pg-locker id KEY"],
  ["no action", ["server"], "Expected status or stop: pg-locker server status|stop"],
  ["an unknown action", ["server", "statis"], 'Unknown "statis" of server: did you mean status?'],
  ["an option of another action", ["server", "status", "--force"], "--force goes with stop, not with status"],
  ["JSON of an action without", ["server", "stop", "--json"], "--json goes with status, not with stop"],
  [
    "two databases",
    ["demo", "--local", "--url", "postgres://h/d"],
    "Expected one of --local and --url, got both",
  ],
  ["two keys", ["id", "a", "b"], 'Unexpected "b": pg-locker id KEY'],
  ["an empty key", ["id", ""], "Expected `key` to have at least one character"],
  [
    "a namespace that is no int32",
    ["id", "x", "--namespace", "2147483648"],
    "Expected --namespace to be an integer",
  ],
])("%s is reported in one line, with 64", async (_, args, sentence) => {
  const { status, stdout, stderr } = await cli(args);
  expect(status).toBe(64);
  expect(stdout).toBe("");
  expect(stderr).toMatch(/^pg-locker: /);
  expect(stderr).toContain(sentence);
  expect(stderr.trimEnd().split("\n")).toHaveLength(1);
});

test("a key that begins with a dash is given with --key, and is the library's key", async () => {
  for (const args of [["--key", "-x"], ["--key=-x"], ["--", "-x"]]) {
    const { status, stdout } = await cli(["id", ...args]);
    expect([status, stdout]).toEqual([0, expect.stringContaining(`id        ${lockId(0, "-x")}\n`)]);
  }
});

test.each(["1500000us", "1.5s", "1s500ms", "2.s", "+2s", "0.05m", "1500000\u00b5s"])(
  "--ttl %s is a duration, as in the library",
  async (ttl) => {
    // The duration is accepted, and so the next fault is reported: the command is missing.
    const { stderr } = await cli(["run", "k", `--ttl=${ttl}`]);
    expect(stderr).toContain("Expected -- and a command after it");
  },
);

test("--verbose shows where an error comes from", async () => {
  const { stderr } = await cli(["id", "", "--verbose"]);
  expect(stderr).toMatch(/\n +at /);
});

test("pg-locker id shows the lock id and its halves, in a namespace", async () => {
  const { stdout } = await cli(["id", "nightly", "--namespace", "-7", "--json"]);
  const shown = JSON.parse(stdout) as Record<string, string>;
  expect(shown["id"]).toBe(String(lockId(-7, "nightly")));
  const halves = (BigInt(shown["classid"] ?? "") << 32n) | BigInt(shown["objid"] ?? "");
  expect(BigInt.asIntN(64, halves)).toBe(lockId(-7, "nightly"));
  const { stdout: text } = await cli(["id", "nightly", "--namespace=-7"]);
  expect(text).toContain(`id        ${lockId(-7, "nightly")}\n`);
});

function expectScreen(text: string): void {
  const lines = text.trimEnd().split("\n");
  // 24 lines, one of which the shell's prompt takes.
  expect(lines.length).toBeLessThanOrEqual(23);
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
}
