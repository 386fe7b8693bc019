import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { notRun } from "../../src/cli/run/plan.ts";
import { lockId } from "../../src/index.ts";
import { CliChild, type CliResult, cli } from "../support/cli.ts";
import {
  advisoryLocks,
  createRole,
  databaseUrl,
  holdersOf,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { idle, onDatabase, runLocked } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { lives, taggedProcesses } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

/** Runs a command under a lock, until it ends. */
function run(args: readonly string[], command: readonly string[], key = uniqueKey()): Promise<CliResult> {
  return cli(["run", key, ...args, "--", ...command], onDatabase());
}

/** Resolves when the server shows that somebody waits for a lock. */
async function somebodyWaits(): Promise<void> {
  await until(async () => (await advisoryLocks()).some(({ granted }) => !granted), {
    deadline: 15_000,
  });
}

describe("the command's own", () => {
  test.each([0, 1, 42])("exit status is passed on: %s", async (status) => {
    expect((await run([], ["sh", "-c", `exit ${status}`])).status).toBe(status);
  });

  test("signal becomes the status 128 + N, as in a shell", async () => {
    expect((await run([], ["sh", "-c", "kill -KILL $$"])).status).toBe(137);
  });

  test("standard input, output and error are those of pg-locker, each for itself", async () => {
    const command = ["sh", "-c", "cat; echo wrong >&2"];
    await using child = CliChild.start(["run", uniqueKey(), "--", ...command], onDatabase());
    child.process.stdin?.end("right\n");
    expect(await child.ended).toMatchObject({ status: 0, stdout: "right\n", stderr: "wrong\n" });
  });

  test("1 GB goes through its input and its output", async () => {
    const pipe = `head -c 1073741824 /dev/zero | $PG_LOCKER run ${uniqueKey()} -- cat | wc -c`;
    const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
    const env = { ...process.env, ...onDatabase().env, PG_LOCKER: `${process.execPath} ${main}` };
    const { stdout } = await promisify(execFile)("sh", ["-c", pipe], { env });
    expect(stdout.trim()).toBe("1073741824");
  });

  test("words are not interpreted by a shell", async () => {
    const { stdout } = await run([], ["printf", "%s|", "$HOME", "a b", "*", "--", ""]);
    expect(stdout).toBe("$HOME|a b|*|--||");
  });

  test("words become a line for the shell with --shell", async () => {
    const { status, stdout } = await run(["--shell"], ["echo $((1 + 1));", "exit 3"]);
    expect([status, stdout]).toEqual([3, "2\n"]);
  });

  test("environment has the lock's key, id, namespace and a growing fencing token", async () => {
    const key = uniqueKey();
    const shown = async (args: readonly string[]) => {
      const { stdout } = await run(args, ["env"], key);
      const lines = stdout.split("\n").map((line) => line.split("=", 2) as [string, string]);
      return Object.fromEntries(lines.filter(([name]) => /^PG_LOCKER_(?!TEST)/.test(name)));
    };
    const first = await shown(["--namespace", "-7"]);
    expect(first).toEqual({
      PG_LOCKER_KEY: key,
      PG_LOCKER_ID: `${lockId(-7, key)}`,
      PG_LOCKER_NAMESPACE: "-7",
      PG_LOCKER_FENCING_TOKEN: expect.stringMatching(/^\d+$/) as string,
      PG_LOCKER_RUN: expect.stringMatching(/^[\da-f-]{36}$/) as string,
    });
    const second = await shown(["--namespace=-7"]);
    const tokens = [first, second].map((each) => BigInt(each["PG_LOCKER_FENCING_TOKEN"] ?? ""));
    expect(tokens[1]).toBeGreaterThan(tokens[0] ?? 0n);
  });

  test("environment lacks a token for a shared lock, and the one of an outer run", async () => {
    const args = ["run", uniqueKey(), "--shared", "--", "env"];
    const { stdout } = await cli(args, onDatabase({ PG_LOCKER_FENCING_TOKEN: "7" }));
    expect(stdout).toContain("PG_LOCKER_KEY=");
    expect(stdout).not.toContain("PG_LOCKER_FENCING_TOKEN");
  });

  test("descriptors don't include the lock's session", async () => {
    await using locked = await runLocked(`for fd in /proc/$$/fd/*; do readlink $fd; done; echo end; ${idle}`);
    await locked.cli.says("end\n");
    const files = locked.cli.stdout.split("\n");
    // Standard input, output and error are pipes or socket pairs of the test.
    expect(files.filter((file) => file.startsWith("socket:")).length).toBeLessThanOrEqual(3);
    const own = new Set(files.filter((file) => file.startsWith("socket:")));
    const socketsOfRunner = socketsOf(locked.runner);
    expect(socketsOfRunner.some((socket) => isTcp(locked.runner, socket))).toBe(true);
    for (const socket of socketsOfRunner) if (isTcp(locked.runner, socket)) expect(own).not.toContain(socket);
    locked.cli.signal("SIGTERM");
    expect((await locked.cli.ended).status).toBe(143);
  });
});

describe("a command that", () => {
  test("is not found exits with 127, and the lock is free again", async () => {
    const key = uniqueKey();
    const { status, stderr } = await run([], ["pg-locker-no-such-command"], key);
    expect([status, stderr]).toEqual([
      127,
      'pg-locker: The command "pg-locker-no-such-command" was not found\n',
    ]);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
  });

  test.each([
    ["/etc/passwd", "is not executable"],
    ["/etc", "is a folder"],
  ])("is not executable exits with 126, and the lock is free again: %s", async (file, why) => {
    const key = uniqueKey();
    const { status, stderr } = await run([], [file], key);
    expect([status, stderr]).toEqual([126, `pg-locker: The command "${file}" ${why}\n`]);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
  });

  test("has an argument too long for the system exits with 126, and says so", async () => {
    const words = Array.from({ length: 40 }, () => "x".repeat(10_000));
    const { status, stderr } = await run(["--shell"], ["echo", ...words]);
    expect([status, stderr]).toEqual([126, expect.stringContaining("one of its arguments is too long")]);
  });

  test("is found in PATH, but is not executable, exits with 126", async () => {
    const folder = mkdtempSync(join(tmpdir(), "pg-locker-path-"));
    try {
      writeFileSync(join(folder, "pg-locker-no-program"), "");
      const found = await cli(
        ["run", uniqueKey(), "--", "pg-locker-no-program"],
        onDatabase({ PATH: folder }),
      );
      expect(found).toMatchObject({ status: 126, stderr: expect.stringContaining("is not executable") });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("is in no folder of PATH exits with 127, even if one is closed to the user", () => {
    expect(notRun("pg-locker-no-such-command", "EACCES")).toMatchObject({ status: 127 });
    expect(notRun("/etc/passwd", "EACCES")).toMatchObject({ status: 126 });
  });

  test("leaves a child behind ends the run, and frees the lock: the child runs on", async () => {
    const key = uniqueKey();
    const { status, stdout } = await run([], ["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], key);
    const child = Number(stdout);
    expect(status).toBe(0);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
    expect(lives(child)).toBe(true);
    process.kill(child, "SIGKILL");
  });

  test("takes longer than the TTL keeps its lock", async () => {
    await using locked = await runLocked("sleep 5; echo done", { args: ["--ttl", "3s", "--grace", "200ms"] });
    const held: boolean[] = [];
    while (!locked.cli.stdout.includes("done")) held.push(await locked.isLocked());
    expect((await locked.cli.ended).status).toBe(0);
    // The last look may have come after the end of the command.
    expect(held.slice(0, -1)).not.toContain(false);
  });
});

describe("a lock that is held elsewhere", () => {
  const holderOf = (what: string) =>
    new RegExp(`^pg-locker: ${what}: it is held by \\w+( on \\S+)? \\(pid \\d+\\), for \\d+s at most\n$`);

  test("is not waited for by default, and the status is 75", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    for (const args of [[], ["-n"], ["--nonblock"], ["-w", "0"], ["--shared"]]) {
      const { status, stdout, stderr } = await run(args, ["echo", "run"], key);
      expect([status, stdout]).toEqual([75, ""]);
      expect(stderr).toMatch(holderOf(`Lock "${key}" not acquired`));
    }
  });

  test("is waited for as long as -w (seconds) or --wait (a duration) says, then 124", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    for (const args of [["-w", "0.2"], ["-w", "200ms"], ["--timeout=0.2"], ["--wait=200ms"]]) {
      const { status, stdout, stderr } = await run(args, ["echo", "run"], key);
      expect([status, stdout]).toEqual([124, ""]);
      expect(stderr).toMatch(holderOf(`Lock "${key}" not acquired after 200ms`));
    }
  });

  test("means the status that -E gives, with and without a wait", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    expect((await run(["-E", "7"], ["true"], key)).status).toBe(7);
    expect((await run(["-E0", "-w", "0.1"], ["true"], key)).status).toBe(0);
    expect((await run(["--conflict-exit-code=255", "--wait=100ms"], ["true"], key)).status).toBe(255);
  });

  test.each([
    [["-nE", "0"], 0],
    [["-nE3"], 3],
    [["-xn", "-E=3"], 64],
    [["-sw0.1"], 124],
    [["-xw", "0.1", "-E4"], 4],
    [["-snE", "5"], 5],
  ])("is handled by flock's short options, also combined: %s", async (args, expected) => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    expect(await run(args, ["echo", "run"], key)).toMatchObject({ status: expected, stdout: "" });
  });

  test.each([["--wait"], ["-w", "60"], ["--wait=1m"]])(
    "is acquired once it is released: %s",
    async (...args) => {
      await using locker = createLocker({ sessions: "dedicated" });
      const key = uniqueKey();
      const lock = await locker.acquire(key);
      await using child = CliChild.start(["run", key, ...args, "--", "echo", "run"], onDatabase());
      await somebodyWaits();
      expect(child.stdout).toBe("");
      await lock.release();
      expect(await child.ended).toMatchObject({ status: 0, stdout: "run\n", stderr: "" });
    },
  );

  test("is shared by readers, and keeps a writer out", async () => {
    await using reader = await runLocked(idle, { args: ["-s"] });
    const { key } = reader;
    expect(await run(["--shared"], ["echo", "read"], key)).toMatchObject({ status: 0, stdout: "read\n" });
    expect((await run([], ["echo", "write"], key)).status).toBe(75);
    expect((await run(["-x"], ["echo", "write"], key)).status).toBe(75);
    reader.cli.signal("SIGTERM");
    await reader.cli.ended;
  });
});

describe("a signal to pg-locker", () => {
  const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;

  test.each(signals)("reaches the command, once: %s", async (signal) => {
    const name = signal.slice(3);
    await using locked = await runLocked(
      `trap 'echo got ${name}' ${name}; echo ready; until read line; do :; done; exit 9`,
    );
    await locked.cli.says("ready\n");
    locked.cli.signal(signal);
    await locked.cli.says(`got ${name}\n`);
    locked.cli.process.stdin?.end("on\n");
    const { status, stdout } = await locked.cli.ended;
    expect([status, stdout.match(/got/g)?.length]).toEqual([9, 1]);
  });

  test("reaches all of the command's processes", async () => {
    const child = "trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.1; done";
    await using locked = await runLocked(`trap 'wait; exit 5' TERM; sh -c "${child}" & wait`);
    await locked.cli.says("ready\n");
    locked.cli.signal("SIGTERM");
    const { status, stdout } = await locked.cli.ended;
    expect([status, stdout]).toEqual([5, expect.stringContaining("child\n")]);
  });

  test("that ends the command becomes the status 128 + N", async () => {
    await using locked = await runLocked(idle);
    locked.cli.signal("SIGTERM");
    expect(await locked.cli.ended).toMatchObject({ status: 143, stderr: "" });
  });

  test.each(signals)("while it waits ends the wait, and nothing is run: %s", async (signal) => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    await using child = CliChild.start(["run", key, "--wait", "--", "echo", "run"], onDatabase());
    await somebodyWaits();
    child.signal(signal);
    expect(await child.ended).toMatchObject({ status: 128 + constants.signals[signal], stdout: "" });
  });
});

describe("a password", () => {
  test("in --url is shown by no process, and passed on to none", async () => {
    const url = new URL(databaseUrl());
    url.password = "not-for-your-eyes";
    const command = ["sh", "-c", `echo ready; ${idle}`];
    const args = ["run", uniqueKey(), `--url=${url.href}`, "--", ...command];
    await using child = CliChild.start(args, onDatabase({ DATABASE_URL: undefined }));
    await child.says("ready\n");
    const shown = taggedProcesses();
    expect(shown.length).toBeGreaterThanOrEqual(3);
    expect(shown.map(({ command }) => command).join("\n")).not.toContain("not-for-your-eyes");
    const others = shown.filter(({ pid }) => pid !== child.process.pid);
    for (const { pid } of others) {
      if (!lives(pid)) continue;
      expect(readFileSync(`/proc/${pid}/environ`, "latin1")).not.toContain("not-for-your-eyes");
    }
    child.signal("SIGTERM");
    await child.ended;
  });

  test("in a URL that can't be read is in no error text, and the status is 64", async () => {
    const url = "postgres://alice:hunter2@127.0.0.1:none/db";
    for (const verbose of [[], ["--verbose"]]) {
      const ran = await cli(["run", uniqueKey(), "--url", url, ...verbose, "--", "true"], onDatabase());
      const examined = await cli(["doctor", ...verbose], onDatabase({ DATABASE_URL: url }));
      expect([ran.status, examined.status]).toEqual([64, 64]);
      expect(ran.stderr).toContain("--url has no host and port that can be read");
      expect(examined.stderr).toContain("DATABASE_URL has no host and port that can be read");
      for (const { stdout, stderr } of [ran, examined]) expect(stdout + stderr).not.toContain("hunter2");
    }
  });

  test("that is wrong means 69, and is in no error text", async () => {
    await using role = await createRole({ asksPassword: true });
    const url = urlWith({ user: role.name, password: "wr0ng-one" });
    const args = ["run", uniqueKey(), "--url", url, "--verbose", "--", "echo", "run"];
    const { status, stdout, stderr } = await cli(args, onDatabase());
    expect([status, stdout]).toEqual([69, ""]);
    expect(stderr).toContain("password authentication failed");
    expect(stderr).not.toContain("wr0ng-one");
  });
});

test.each([
  ["no -- and no command", ["k"], "Expected -- and a command after it"],
  [
    "a command without --",
    ["k", "echo"],
    'Unexpected "echo": put -- before the command, as in pg-locker run k -- echo',
  ],
  ["no command behind --", ["k", "--"], "Expected a command after --, got nothing"],
  ["two --", ["k", "--", "--", "echo"], "Expected a command after --, got a second --"],
  ["no key", ["--", "echo"], "Expected a key: pg-locker run KEY"],
  ["an empty key", ["", "--", "echo"], "Expected `key` to have at least one character"],
  [
    "a TTL without a unit",
    ["k", "--ttl", "5", "--", "echo"],
    'Expected --ttl to be a duration such as "30s"',
  ],
  ["a TTL too short", ["k", "--ttl=100ms", "--", "echo"], "Expected --ttl to be from 1s to 596h"],
  [
    "a grace that leaves no room",
    ["k", "--ttl=10s", "--grace=6s", "--", "echo"],
    "Expected --grace to be at most",
  ],
  ["a wait that is none", ["k", "--wait=soon", "--", "echo"], "Expected --wait to be a duration"],
  ["a negative wait", ["k", "-w", "-1", "--", "echo"], "Expected -w to be a duration"],
  [
    "an invalid exit status",
    ["k", "-E", "256", "--", "echo"],
    "Expected -E to be an exit status from 0 to 255",
  ],
  [
    "-n with -w",
    ["k", "-n", "-w1", "--", "echo"],
    "Expected one of -n (--nonblock) and -w (--timeout), got both",
  ],
  [
    "-n with --wait",
    ["k", "-n", "--wait", "--", "echo"],
    "Expected one of -n (--nonblock) and --wait, got both",
  ],
  [
    "a TTL above the recovery grace",
    ["k", "--recovery-grace", "10s", "--ttl=30s", "--", "echo"],
    'Expected --ttl to be at most --recovery-grace, which is 10s, got "30s"',
  ],
  [
    "a recovery grace that is too short",
    ["k", "--recovery-grace", "10ms", "--", "echo"],
    'Expected --recovery-grace to be from 1s to 596h, got "10ms"',
  ],
  ["-s with -x", ["k", "-sx", "--", "echo"], "Expected one of -s (--shared) and -x (--exclusive), got both"],
  ["an unknown option", ["k", "--shred", "--", "echo"], "Unknown option --shred: did you mean --shared?"],
])("%s is reported in one line, with 64", async (_, args, sentence) => {
  const { status, stdout, stderr } = await cli(["run", ...args], onDatabase());
  expect([status, stdout]).toEqual([64, ""]);
  expect(stderr).toContain(`pg-locker: ${sentence}`);
  expect(stderr.trimEnd().split("\n")).toHaveLength(1);
});

test("of an option that is given twice, the last value counts", async () => {
  const { status, stdout } = await run(["--ttl", "soon", "--ttl", "5s"], ["echo", "run"]);
  expect([status, stdout]).toEqual([0, "run\n"]);
});

test("options after -- belong to the command", async () => {
  const { status, stdout } = await run([], ["echo", "--ttl", "5", "--help"]);
  expect([status, stdout]).toEqual([0, "--ttl 5 --help\n"]);
});

test("a closed standard input, as in cron, does no harm", async () => {
  const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
  const env = { ...process.env, ...onDatabase().env };
  const child = spawn(
    "sh",
    ["-c", `exec "$0" "$@" <&-`, process.execPath, main, "run", uniqueKey(), "--", "true"],
    {
      env,
      stdio: "ignore",
    },
  );
  expect(await once(child, "exit")).toEqual([0, null]);
});

/** Returns the sockets among a process's descriptors, by name. */
function socketsOf(pid: number): string[] {
  return [...Array(64).keys()].flatMap((fd) => {
    try {
      const file = readlinkSync(`/proc/${pid}/fd/${fd}`);
      return file.startsWith("socket:") ? [file] : [];
    } catch {
      return [];
    }
  });
}

function isTcp(pid: number, socket: string): boolean {
  const inode = socket.slice("socket:[".length, -1);
  return readFileSync(`/proc/${pid}/net/tcp`, "latin1").includes(` ${inode} `);
}
