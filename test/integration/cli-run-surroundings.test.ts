import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { CliChild, cli, Terminal } from "../support/cli.ts";
import { databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { idle, onDatabase } from "../support/locked-command.ts";
import { until } from "../support/until.ts";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

const namespace = ["--pid", "--fork", "--mount-proc"];
const canReplaceItself = "execve" in process;
const canMakeNamespaces = spawnSync("unshare", [...namespace, "true"]).status === 0;
const hasBun = spawnSync("bun", ["--version"]).status === 0;

/** Returns the only child of a process. */
function childOf(parent: number | undefined): number {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const isChild = (pid: string): boolean => {
    try {
      return readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ")[1] === String(parent);
    } catch {
      return false;
    }
  };
  return Number(pids.find(isChild));
}

describe.skipIf(!canMakeNamespaces)("as the first process of a container, pg-locker run", () => {
  const run = (script: string, { url, input }: { url?: string; input?: string } = {}) => {
    const own = ["run", uniqueKey(), ...(url === undefined ? [] : ["--url", url])];
    return spawnSync("unshare", [...namespace, process.execPath, main, ...own, "--", "sh", "-c", script], {
      env: { ...process.env, DATABASE_URL: databaseUrl() },
      input,
      encoding: "utf8",
    });
  };

  test("has the command's status", () => {
    const { status, stderr } = run("(sleep 0.1 &); (sleep 0.1 &); sleep 0.5; exit 5");
    expect([status, stderr]).toEqual([5, ""]);
  });

  test("has the status of a command that a signal has ended, and its standard input", () => {
    const { status, stdout, stderr } = run("cat; kill -35 $$", { input: "through\n" });
    expect([status, stdout, stderr]).toEqual([128 + 35, "through\n", ""]);
  });

  test.skipIf(!canReplaceItself)("reaps orphans that have ended (skipped before Node.js 22.15)", () => {
    const { status, stdout } = run("(sleep 0.1 &); sleep 0.5; ps -eo stat= | grep -c Z; exit 5");
    expect([status, stdout]).toEqual([5, "0\n"]);
  });

  test("passes Ctrl-C on, once", async () => {
    const script = "trap 'echo caught' INT; echo ready; until read line; do :; done; exit 4";
    const args = [...namespace, process.execPath, main, "run", uniqueKey(), "--", "sh", "-c", script];
    await using terminal = Terminal.start("unshare", args, onDatabase());
    await terminal.shows("ready");
    terminal.type("\x03");
    await terminal.shows("caught");
    terminal.type("on\r");
    expect((await terminal.ended).status).toBe(4);
    expect(terminal.output.match(/caught/g)).toHaveLength(1);
  });

  test("shows no process the password of a --url", () => {
    const { status, stdout } = run("ps -eo args=", { url: databaseUrl() });
    expect(status).toBe(0);
    expect(stdout).not.toContain(databaseUrl());
  });

  test("passes a signal on, and ends everything in it", async () => {
    const key = uniqueKey();
    const script = `setsid sh -c "echo begun; ${idle}" & wait`;
    const child = spawn(
      "unshare",
      [...namespace, process.execPath, main, "run", key, "--", "sh", "-c", script],
      {
        env: { ...process.env, ...onDatabase().env } as NodeJS.ProcessEnv,
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    await once(child.stdout, "data");
    process.kill(childOf(child.pid), "SIGTERM");
    expect(await once(child, "exit")).toEqual([143, null]);
    await until(async () => (await holdersOf(lockId(0, key))).length === 0, { deadline: 15_000 });
  });
});

describe.skipIf(!canMakeNamespaces)("where /proc is that of another namespace, pg-locker run", () => {
  const inside = (script: string): string[] => [
    ...["--pid", "--fork", process.execPath, main],
    ...["run", uniqueKey(), "--", "sh", "-c", script],
  ];
  const env = { ...process.env, DATABASE_URL: databaseUrl() };

  test("has the command's status", () => {
    const { status, stderr } = spawnSync("unshare", inside("exit 5"), { env, encoding: "utf8" });
    expect([status, stderr]).toEqual([5, ""]);
  });

  test("passes a signal on, and ends", async () => {
    const child = spawn("unshare", inside("trap 'exit 7' TERM; echo begun; sleep 60 & wait"), {
      env: { ...env, ...onDatabase().env } as NodeJS.ProcessEnv,
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    process.kill(childOf(child.pid), "SIGTERM");
    expect(await once(child, "exit")).toEqual([7, null]);
  });
});

// The line in docs/cli.md for a container without an init: the shell waits, and so reaps orphans that have ended.
const shellAsInit = `p=$!; trap 'kill -TERM $p; wait $p; exit $?' TERM; wait $p`;

describe.skipIf(!canMakeNamespaces)(
  "behind a shell that is the first process of a container, pg-locker run",
  () => {
    const inShell = (key: string, script: string): string[] => [
      ...namespace,
      "sh",
      "-c",
      `"$@" & ${shellAsInit}`,
      "sh",
      ...[process.execPath, main, "run", key, "--", "sh", "-c", script],
    ];

    test("has the command's status, and orphans that have ended are reaped", async () => {
      const orphaned = "(sleep 0.1 &); sleep 0.5";
      const zombies = "ps -eo stat= | grep -c Z";
      const { status, stdout } = spawnSync(
        "unshare",
        inShell(uniqueKey(), `${orphaned}; ${zombies}; exit 5`),
        {
          env: { ...process.env, DATABASE_URL: databaseUrl() },
          encoding: "utf8",
        },
      );
      expect([status, stdout]).toEqual([5, "0\n"]);
    });

    test("gets SIGTERM, and has the status of a command that SIGTERM has ended", async () => {
      const child = spawn(
        "unshare",
        inShell(uniqueKey(), "trap 'exit 7' TERM; echo begun; sleep 60 & wait"),
        {
          env: { ...process.env, ...onDatabase().env } as NodeJS.ProcessEnv,
          stdio: ["ignore", "pipe", "inherit"],
        },
      );
      await once(child.stdout, "data");
      process.kill(childOf(child.pid), "SIGTERM");
      expect(await once(child, "exit")).toEqual([7, null]);
    });
  },
);

describe("systemd", () => {
  test("passes its variables to the command, those for one process too", async () => {
    const script = 'echo "$NOTIFY_SOCKET $WATCHDOG_USEC"; test "$WATCHDOG_PID" = $$ && echo own';
    const line = `WATCHDOG_PID=$$ exec "$NODE" "$MAIN" run "$KEY" -- sh -c '${script}'`;
    const { stdout } = spawnSync("sh", ["-c", line], {
      env: {
        ...process.env,
        ...onDatabase({ NODE: process.execPath, MAIN: main, KEY: uniqueKey() }).env,
        NOTIFY_SOCKET: "@somewhere",
        WATCHDOG_USEC: "5000000",
      } as NodeJS.ProcessEnv,
      encoding: "utf8",
    });
    expect(stdout).toBe("@somewhere 5000000\nown\n");
  });
});

describe("Bun", () => {
  const refusal =
    /^pg-locker: Expected Node\.js, but this is Bun [\d.]+, which can't hand .*: run pg-locker with node\n$/;

  test("is refused before anything is started, and so before a lock is taken", async () => {
    const script =
      'Object.defineProperty(process, "versions", { value: { ...process.versions, bun: "1.4.5" } })';
    const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(script)}`;
    const args = ["run", uniqueKey(), "--", "echo", "run"];
    const { status, stdout, stderr } = await cli(args, onDatabase({ NODE_OPTIONS }));
    expect([status, stdout, stderr]).toEqual([70, "", expect.stringMatching(refusal)]);
  });

  test.skipIf(!hasBun)("is refused by a real Bun", () => {
    const env = { ...process.env, ...onDatabase().env } as NodeJS.ProcessEnv;
    const { status, stderr } = spawnSync("bun", [main, "run", uniqueKey(), "--", "true"], {
      env,
      encoding: "utf8",
    });
    expect([status, stderr]).toEqual([70, expect.stringMatching(refusal)]);
  });
});

test("a command is run in a working directory that has been deleted", () => {
  const inDeleted = 'folder=$(mktemp -d) && cd "$folder" && rmdir "$folder" && exec "$@"';
  for (const [program, status] of [
    ["true", 0],
    ["false", 1],
  ] as const) {
    const command = [process.execPath, main, "run", uniqueKey(), "--", program];
    const env = { ...process.env, DATABASE_URL: databaseUrl() };
    const ended = spawnSync("sh", ["-c", inDeleted, "sh", ...command], { env, encoding: "utf8" });
    expect([ended.status, ended.stderr]).toEqual([status, ""]);
  }
});

test.skipIf(!existsSync("/proc/self/stat"))(
  "SIGUSR1 ends a run that is starting, and starts no debugger (needs /proc)",
  async () => {
    await using run = CliChild.start(["run", uniqueKey(), "--", "echo", "ran"], onDatabase());
    while (Number.isNaN(childOf(run.process.pid))) await setImmediate();
    run.signal("SIGUSR1");
    expect(await run.ended).toEqual({ status: 138, signal: null, stdout: "", stderr: "" });
  },
);
