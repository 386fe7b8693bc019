import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test, vi } from "vitest";
import { tooFewProcesses } from "../../src/cli/failure.ts";
import { databaseUrl, uniqueKey } from "../support/database.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

// Limits that a shell sets for a command, and that a plain child process can't have.

const program = fileURLToPath(new URL("../../dist/cli/start.js", import.meta.url));
const sentence = /^pg-locker: [^\n]+\n$/;

/** Runs a line of sh in a session of its own. In that line, "$@" is `pg-locker` with a command's arguments. */
function shell(
  line: string,
  args: readonly string[],
): Promise<{ status: unknown; stdout: string; stderr: string }> {
  const env = { PATH: process.env["PATH"], DATABASE_URL: databaseUrl() };
  const all = ["--wait", "/bin/sh", "-c", line, "sh", process.execPath, program, ...args];
  return new Promise((resolve) => {
    const child = execFile("setsid", all, { env, timeout: 60_000 }, (_, stdout, stderr) =>
      resolve({ status: child.exitCode, stdout, stderr }),
    );
  });
}

/** Whether Node.js itself starts with so few files; later releases need more, and crash without them. */
async function isEnoughForNode(limit: number): Promise<boolean> {
  const folder = mkdtempSync(join(tmpdir(), "pg-locker-limits-"));
  try {
    writeFileSync(join(folder, "empty.js"), "");
    const { status } = await shell(`ulimit -n ${limit}; exec "$1" ${join(folder, "empty.js")}`, []);
    return status === 0;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

// From the lowest limit up: the runner can't be started; its thread can't; it gets no copy of the lock's connection, which takes 15 s to
// be noticed; no file is left for the command. In a session of its own, because a process that can't be started has the pid 0, to which a
// signal would reach this process's whole group.
test("with few open files allowed, a command works, or fails with a sentence", async () => {
  const commands = [["ls"], ["id", "k"], ["doctor"], ["run", "", "--", "echo", "ran"]];
  const limits = [];
  for (const limit of [19, 22, 23, 24, 48]) if (await isEnoughForNode(limit)) limits.push(limit);
  expect(limits.length).toBeGreaterThan(1);
  const all = limits.flatMap((limit) => commands.map((args) => ({ limit, args })));
  const wrong = await Promise.all(
    all.map(async ({ limit, args: [name = "", key = "", ...rest] }) => {
      const args = [name, ...(name === "run" ? [uniqueKey()] : key === "" ? [] : [key]), ...rest];
      const { status, stdout, stderr } = await shell(`ulimit -n ${limit}; exec "$@"`, args);
      const isTold = status === 70 && stdout === "" && sentence.test(stderr) && stderr.includes("ulimit -n");
      return status === 0 || isTold ? [] : [{ limit, name, status, stdout, stderr }];
    }),
  );
  expect(wrong.flat()).toEqual([]);
});

/** How many threads a Node.js has that does nothing, and its address space in kilobytes. */
async function plainNode(): Promise<{ threads: number; kilobytes: number }> {
  const script = 'console.log(require("node:fs").readFileSync("/proc/self/status", "latin1"))';
  const { stdout } = await promisify(execFile)(process.execPath, ["-e", script]);
  const numberOf = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(stdout)?.[1]);
  return { threads: numberOf("Threads"), kilobytes: numberOf("VmPeak") };
}

const limitsThreads =
  process.getuid?.() === 0 && ["setpriv", "prlimit"].every((name) => existsSync(`/usr/bin/${name}`));

// Enough for the keeper alone; then for the runner without its thread; then for its thread without the command; then for all. Only users
// other than root are limited.
test.skipIf(!limitsThreads)(
  "with few threads allowed, run works or says why not (needs root, prlimit)",
  async () => {
    const { threads } = await plainNode();
    const key = uniqueKey();
    for (const [at, limit] of [threads, 2 * threads, 2 * threads + 1, 2 * threads + 4].entries()) {
      // Each limit counts the processes of a user of its own.
      const user = 40_000 + 4 * (process.pid % 5_000) + at;
      const account = `setpriv --reuid=${user} --regid=${user} --clear-groups`;
      const line = `exec ${account} prlimit --nproc=${limit} "$@"`;
      const { status, stdout, stderr } = await shell(line, ["run", key, "--", "echo", "ran"]);
      // Node.js itself may warn in a line of its own.
      const last = stderr.slice(stderr.indexOf("pg-locker: "));
      const isTold = status === 70 && stdout === "" && sentence.test(last) && last.includes("ulimit -u");
      const isRun = status === 0 && stdout === "ran\n";
      expect({ limit, status, stdout, stderr, isRightly: isRun || isTold }).toMatchObject({
        isRightly: true,
        stderr: expect.not.stringContaining("    at "),
      });
    }
    expect(await shell('exec "$@"', ["who", key])).toMatchObject({ status: 1 });
  },
);

/** The processes of a user that still run. */
function processesOf(user: number): string[] {
  return readdirSync("/proc")
    .filter(
      (name) => /^\d+$/.test(name) && statSync(`/proc/${name}`, { throwIfNoEntry: false })?.uid === user,
    )
    .map((pid) => readFileSync(`/proc/${pid}/stat`, "latin1"))
    .filter((text) => !/\) [ZX] /.test(text));
}

// Node.js would start four threads at once to resolve a name, and abort if one of them is refused.
test.skipIf(!limitsThreads)(
  "with few threads, a host's name is resolved, or it says why not (root, prlimit)",
  async () => {
    const { threads } = await plainNode();
    const url = databaseUrl().replace("127.0.0.1", "localhost");
    expect(url).toContain("localhost");
    const statuses = new Set();
    const tryWith = async (limit: number): Promise<void> => {
      const user = 61_000 + 5 * (process.pid % 800) + limit;
      const account = `setpriv --reuid=${user} --regid=${user} --clear-groups`;
      const line = `exec ${account} prlimit --nproc=${threads + limit} "$@"`;
      for (const args of [["ls"], ["run", uniqueKey(), "--", "true"]]) {
        const { status, stderr } = await shell(line, [...args, "--url", url]);
        const isTold = status === 70 && stderr.includes("ulimit -n, -u and -v");
        const isKnown = status === 70 && stderr.includes(tooFewProcesses);
        const isFine = args[0] === "run" ? status === 0 || isTold || isKnown : status === 0 || isKnown;
        expect({ limit, args, status, stderr, isFine }).toMatchObject({ isFine: true });
        expect(processesOf(user)).toEqual([]);
        statuses.add(`${args[0]} ${status}`);
      }
    };
    await Promise.all([0, 1, 2, 3, 4].map(tryWith));
    expect([...statuses]).toEqual(expect.arrayContaining(["ls 70", "ls 0", "run 70"]));
  },
);

test.skipIf(!existsSync("/proc/self/limits"))(
  "with too little memory for the runner's thread, run works (needs /proc)",
  async () => {
    const { kilobytes } = await plainNode();
    for (const more of [300_000, 600_000, 1_200_000]) {
      const line = `ulimit -v ${kilobytes + more}; exec "$@"`;
      expect(await shell(line, ["run", uniqueKey(), "--", "echo", "ran"])).toEqual({
        status: 0,
        stdout: "ran\n",
        stderr: "",
      });
    }
  },
);

test
  .skipIf(!existsSync("/dev/full"))
  .each([
    ...[["ls"], ["ls", "--json"], ["id", "k"], ["doctor"], ["who", "k"], ["break", "k", "--yes"]],
    ...[["server", "status"], ["server", "stop"], ["run", "--help"], ["--help"], ["--version"]],
  ])("a full standard output is reported (skipped without /dev/full): %s %s", async (...args) => {
  const { status, stderr } = await shell(
    'exec "$@" > /dev/full',
    args.filter((each) => each !== undefined),
  );
  expect(status).toBe(70);
  expect(stderr).toBe("pg-locker: Standard output can't be written to (ENOSPC)\n");
});

test.each([
  ...[["id", "k"], ["doctor"], ["break", "k", "--yes"], ["server", "status"], ["--help"], ["--version"]],
  ["run", "k", "--wait=30s", "--", "sh", "-c", "exit 7"],
])("closed and full outputs change no exit status: %s %s", async (...args) => {
  const given = args.filter((each) => each !== undefined);
  const [open, ...closed] = await Promise.all([
    shell('exec "$@" > /dev/null', given),
    shell('exec "$@" <&- >&- 2>&-', given),
    shell('exec "$@" 2> /dev/full', given),
  ]);
  expect(closed.map(({ status }) => status)).toEqual([open.status, open.status]);
});

test("a closed stdout or stderr changes neither what is done nor the exit status", async () => {
  expect(await shell('exec "$@" >&-', ["ls"])).toMatchObject({ status: 0, stderr: "" });
  expect(await shell('exec "$@" >&-', ["who", "no such key"])).toMatchObject({ status: 1, stderr: "" });
  expect(await shell('exec "$@" 2>&-', ["ls"])).toMatchObject({
    status: 0,
    stdout: expect.stringContaining("No locks"),
  });
  expect(await shell('exec "$@" 2>&-', ["ls", "--url", "mysql://h/d"])).toMatchObject({ status: 64 });
  expect(await shell('exec "$@" 2>&-', ["run", "k", "--", "sh", "-c", "exit 7"])).toMatchObject({
    status: 7,
  });
});
