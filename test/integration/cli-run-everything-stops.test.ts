import { once } from "node:events";
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { CliChild } from "../support/cli.ts";
import { holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { idle, type Locked, onDatabase, runLocked } from "../support/locked-command.ts";
import { lives, taggedProcesses } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

const patient = { deadline: 15_000 };
const setpriv = ["/usr/bin/setpriv", "/bin/setpriv"].find((file) => existsSync(file));
const onLinux = test.skipIf(process.platform !== "linux");

/** Ends the session that holds a lock, as an administrator does. */
async function terminateHolder(key: string): Promise<void> {
  const [pid] = await holdersOf(lockId(0, key));
  await onServer("select pg_terminate_backend($1)", [pid]);
}

/** Returns the pid that a process has printed, which shows that it was alive by then. */
async function numberOf(locked: Locked, word: string): Promise<number> {
  await locked.cli.says(new RegExp(`${word} \\d+\\n`));
  return Number(new RegExp(`${word} (\\d+)`).exec(locked.cli.stdout)?.[1]);
}

/** A child that prints its pid, and survives what ends other processes. */
const child = `sh -c 'trap "" TERM HUP INT; echo "child $$"; ${idle}'`;

describe("the loss of a lock ends", () => {
  onLinux.each([
    ["a process in a group of its own", `timeout 60 ${child}; echo on`],
    ["a process in a session of its own", `setsid ${child} & wait`],
    ["a process in a session of its own that has lost its parent", `(setsid ${child} &); ${idle}`],
    ["a process that has lost its parent", `(${child} &); ${idle}`],
    ["a process that ignores SIGHUP because of nohup", `nohup ${child} & wait`],
    ["a process with an environment of its own", `env -i PATH="$PATH" setsid ${child} & wait`],
    ["a process with all of these", `env -i PATH="$PATH" nohup setsid timeout 60 setsid ${child} & wait`],
  ])("%s", async (_, script) => {
    await using locked = await runLocked(script, { args: ["--grace", "200ms"] });
    const pid = await numberOf(locked, "child");
    await terminateHolder(locked.key);
    expect((await locked.cli.ended).status).toBe(79);
    expect(lives(pid)).toBe(false);
    expect(taggedProcesses()).toEqual([]);
  });

  onLinux("what began after it was told to end", async () => {
    const script = `trap 'setsid sh -c "echo late; exec sleep 300" & wait' TERM; ${idle}`;
    await using locked = await runLocked(script);
    await terminateHolder(locked.key);
    await locked.cli.says("late\n");
    expect((await locked.cli.ended).status).toBe(79);
    expect(taggedProcesses()).toEqual([]);
  });

  onLinux("a run within it, and what that runs, within the deadline of the outer one", async () => {
    const script = `"$NODE" "$MAIN" run "$INNER" --ttl 10m --grace 4m -- ${child}`;
    const inner = uniqueKey();
    await using locked = await runLocked(script, {
      env: { NODE: process.execPath, MAIN: "dist/cli/main.js", INNER: inner },
    });
    const pid = await numberOf(locked, "child");
    await terminateHolder(locked.key);
    expect((await locked.cli.ended).status).toBe(79);
    expect(lives(pid)).toBe(false);
    await until(async () => (await holdersOf(lockId(0, inner))).length === 0, patient);
  });

  onLinux("all of that too if the process that runs the command is killed", async () => {
    await using locked = await runLocked(
      `setsid ${child} & (setsid ${child.replace("child", "second")} &); wait`,
      {
        args: ["--grace", "200ms"],
      },
    );
    const pids = [await numberOf(locked, "child"), await numberOf(locked, "second")];
    process.kill(locked.runner, "SIGKILL");
    expect((await locked.cli.ended).status).toBe(70);
    expect(pids.map(lives)).toEqual([false, false]);
  });

  onLinux("all of that too if pg-locker is killed, before the lock is free", async () => {
    await using locked = await runLocked(`setsid ${child} & wait`, { args: ["--grace", "1s"] });
    const pid = await numberOf(locked, "child");
    locked.cli.signal("SIGKILL");
    await until(() => !locked.lives, patient);
    const isLocked = await locked.isLocked();
    if (lives(pid)) expect(isLocked).toBe(true);
    await until(async () => !(await locked.isLocked()), patient);
    expect(lives(pid)).toBe(false);
  });
});

onLinux("a signal to a run within a run is heard by the inner command once", async () => {
  const script = `exec "$NODE" "$MAIN" run "$INNER" -- sh -c 'trap "echo heard" USR1; echo ready; until read line; do :; done; exit 9'`;
  await using locked = await runLocked(script, {
    env: { NODE: process.execPath, MAIN: "dist/cli/main.js", INNER: uniqueKey() },
  });
  await locked.cli.says("ready\n");
  locked.cli.signal("SIGUSR1");
  await locked.cli.says("heard\n");
  locked.cli.process.stdin?.end("on\n");
  const { status, stdout } = await locked.cli.ended;
  expect([status, stdout.match(/heard/g)?.length]).toEqual([9, 1]);
});

onLinux("a signal reaches what is in another group of the command's session", async () => {
  const hears = `sh -c 'trap "echo heard; exit" USR1; echo "child $$"; ${idle}'`;
  await using locked = await runLocked(`trap ":" USR1; timeout 60 ${hears} & wait; wait; exit 5`);
  await numberOf(locked, "child");
  locked.cli.signal("SIGUSR1");
  await locked.cli.says("heard\n");
  expect((await locked.cli.ended).status).toBe(5);
});

// A program that makes its user root, as sudo does, can only be made by root.
test.skipIf(process.platform !== "linux" || process.getuid?.() !== 0 || setpriv === undefined)(
  "a process that runs as another user by now is named, and the run ends",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "pg-locker-"));
    try {
      const sudo = join(folder, "sudo");
      copyFileSync(setpriv ?? "", sudo);
      chmodSync(folder, 0o755);
      chmodSync(sudo, 0o4755);
      const key = uniqueKey();
      const command = [
        "sh",
        "-c",
        `${sudo} --reuid=0 --clear-groups sh -c 'echo "child $$"; exec sleep 300'`,
      ];
      await using child = CliChild.start(["run", key, "--grace", "200ms", "--", ...command], {
        ...onDatabase(),
        account: { uid: 65_534, gid: 65_534 },
      });
      await child.says(/child \d+\n/);
      const pid = Number(/child (\d+)/.exec(child.stdout)?.[1]);
      await terminateHolder(key);
      // The process still has the pipes.
      const [status] = await once(child.process, "exit");
      expect([status, lives(pid)]).toEqual([79, true]);
      process.kill(pid, "SIGKILL");
      const { stderr } = await child.ended;
      expect(stderr).toContain(`pg-locker: 1 process still runs, and could not be ended: ${pid} (sleep)\n`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
