import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { cli } from "../support/cli.ts";
import { uniqueKey } from "../support/database.ts";
import { idle, onDatabase, runLocked } from "../support/locked-command.ts";

const preload = fileURLToPath(new URL("../support/programs/failing-thread.cjs", import.meta.url));

/** An environment in which the thread that starts the command fails, as `test/support/programs/failing-thread.cjs` says. */
function failing(way: string) {
  return { NODE_OPTIONS: `--require ${JSON.stringify(preload)}`, FAIL: way };
}

// Without /proc, no thread is needed.
describe.skipIf(!existsSync("/proc/self/stat"))("the thread that starts the command (needs /proc)", () => {
  test.each([
    "throws at once",
    "throws after the command",
    "exits after the command",
    "hangs after the command",
  ])("%s: the run ends with 70 when the command has ended", async (way) => {
    const folder = mkdtempSync(join(tmpdir(), "pg-locker-thread-"));
    const over = join(folder, "over");
    try {
      const wait = `while ! [ -e ${over} ]; do sleep 0.1; done`;
      await using locked = await runLocked(wait, { env: failing(way) });
      expect([locked.lives, await locked.isLocked()]).toEqual([true, true]);
      writeFileSync(over, "");
      expect(await locked.cli.ended).toMatchObject({
        status: 70,
        signal: null,
        stderr:
          "pg-locker: The command has ended, but its exit status is not known: the thread of pg-locker that had started it failed\n",
      });
      expect([locked.lives, await locked.isLocked()]).toEqual([false, false]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("hangs as it starts the command: that is dead before the lock is free, and 70", async () => {
    await using locked = await runLocked(idle, { env: failing("hangs before it tells of the command") });
    expect(await locked.cli.ended).toMatchObject({
      status: 70,
      stderr: "pg-locker: The process that ran the command was killed, and the command with it\n",
    });
    expect([locked.lives, await locked.isLocked()]).toEqual([false, false]);
  });

  test("fails before it has started the command: nothing is run, and 70", async () => {
    const args = ["run", uniqueKey(), "--", "echo", "ran"];
    expect(await cli(args, onDatabase(failing("exits before the command")))).toMatchObject({
      status: 70,
      stdout: "",
      stderr: expect.stringMatching(/^pg-locker: The process that was to run the command did not start it/),
    });
  });
});
