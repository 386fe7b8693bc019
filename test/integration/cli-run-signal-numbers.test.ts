import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ProcessStarter } from "../../src/cli/run/command-process.ts";
import { cli } from "../support/cli.ts";
import { uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";

/** Signals that don't end a process by default: SIGCHLD, SIGCONT, the four that stop one, SIGURG and SIGWINCH. */
const harmless =
  process.platform === "linux" ? [17, 18, 19, 20, 21, 22, 23, 28] : [16, 17, 18, 19, 20, 21, 22, 23, 28];
const bash = ["/bin/bash", "/usr/bin/bash"].find((file) => existsSync(file));
const last = process.platform === "linux" ? 64 : 31;
const deadly = [...Array(last).keys()]
  .map((index) => index + 1)
  .filter((signal) => !harmless.includes(signal));

describe("a command that a signal ends", () => {
  // 32 and 33 belong to the C library; of the shells, bash can send them.
  test.each(deadly.filter((signal) => signal !== 32 && signal !== 33))(
    "reports the number of the signal: %s",
    async (signal) => {
      const { ended } = new ProcessStarter().start(
        { file: "sh", args: ["-c", `kill -${signal} $$`] },
        { stdio: "ignore" },
      );
      expect(await ended).toEqual({ is: "ended", status: null, signal });
    },
  );

  test.skipIf(bash === undefined || process.platform !== "linux").each([32, 33])(
    "reports the number of a signal of the C library (skipped without bash): %s",
    async (signal) => {
      const { ended } = new ProcessStarter().start(
        { file: bash ?? "", args: ["-c", `kill -${signal} $$`] },
        { stdio: "ignore" },
      );
      expect(await ended).toEqual({ is: "ended", status: null, signal });
    },
  );

  test.skipIf(process.platform !== "linux").each([34, 35, 64])(
    "exits with 128 + N, even above 31, where Node.js has no names: %s",
    async (signal) => {
      const args = ["run", uniqueKey(), "--", "sh", "-c", `kill -${signal} $$`];
      expect(await cli(args, onDatabase())).toMatchObject({ status: 128 + signal, stderr: "" });
    },
  );
});

test.each([0, 1, 35, 255])("an exit status is reported as it is: %s", async (status) => {
  const { ended } = new ProcessStarter().start(
    { file: "sh", args: ["-c", `exit ${status}`] },
    { stdio: "ignore" },
  );
  expect(await ended).toEqual({ is: "ended", status, signal: null });
});

test("a program that doesn't exist is reported as not run", async () => {
  const { pid, ended } = new ProcessStarter().start(
    { file: "pg-locker-no-such-command", args: [] },
    { stdio: "ignore" },
  );
  expect([pid, await ended]).toEqual([undefined, { is: "not-run", code: "ENOENT" }]);
});
