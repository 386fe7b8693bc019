import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** Runs a line of bash in which `$RUN` is `pg-locker run KEY --`. */
async function bash(line: string, env: Readonly<Record<string, string>> = {}) {
  const child = spawn("bash", ["-c", line], {
    env: {
      ...process.env,
      ...onDatabase({ RUN: `${process.execPath} ${main} run ${uniqueKey()} --`, ...env }).env,
    } as NodeJS.ProcessEnv,
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.stdin.end();
  const [stdout, stderr, [status]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit"),
  ]);
  return { status: status as number, stdout, stderr };
}

/** Lists all descriptors, and what each refers to. */
const shown = `sh -c 'for fd in /proc/$$/fd/*; do echo "\${fd##*/} $(readlink $fd)"; done'`;

describe.skipIf(process.platform !== "linux")("a descriptor that pg-locker was started with", () => {
  test.each([
    ["a copy of standard output", "3>&1", "echo three >&3", "three\n"],
    ["a copy, high up", "200>&1", "bash -c 'echo x >&200'", "x\n"],
    ["a file that is read", "9</etc/hostname", "cat <&9 >/dev/null && echo read", "read\n"],
    ["a pipe that is read", "5< <(echo from-a-pipe)", "cat <&5", "from-a-pipe\n"],
    ["a pipe, and none below it", "12< <(echo from-a-pipe)", "bash -c 'cat <&12'", "from-a-pipe\n"],
  ])("reaches the command: %s", async (_, redirection, command, expected) => {
    const line = command.startsWith("bash") ? command : `bash -c '${command}'`;
    expect(await bash(`$RUN ${line} ${redirection}`)).toEqual({ status: 0, stdout: expected, stderr: "" });
  });

  test("a parallel make has its jobserver through it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "pg-locker-"));
    try {
      const makefile = `a:\n\t+@$(RUN) $(MAKE) -s -f ${folder}/Makefile b c\nb c:\n\t@echo $@\n`;
      const { status, stdout, stderr } = await bash(
        `command -v make >/dev/null || { printf 'b\\nc\\n'; exit 0; }; printf '%s' "$MAKEFILE" > ${folder}/Makefile; make -s -j2 -f ${folder}/Makefile a`,
        { MAKEFILE: makefile },
      );
      expect([status, stdout.split("\n").toSorted(), stderr]).toEqual([0, ["", "b", "c"], ""]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test.each([
    ["nothing more", ""],
    ["one", "3>&1"],
    ["some, with holes", "4</etc/hostname 7>&2 30>&1"],
  ])("is the only kind that reaches the command: %s", async (_, redirections) => {
    const direct = await bash(`${shown} ${redirections} </dev/null 2>/dev/null`);
    const locked = await bash(`$RUN ${shown} ${redirections} </dev/null 2>/dev/null`);
    const plain = (stdout: string) => stdout.replaceAll(/\[\d+\]|\d+\/fd/g, "");
    expect(plain(locked.stdout)).toBe(plain(direct.stdout));
  });

  test("does not include the runner's channel or the session of the lock", async () => {
    const { stdout } = await bash(`$RUN ${shown} </dev/null`);
    // Its standard output and error may be sockets of the test's.
    expect(stdout).not.toMatch(/^([3-9]|\d\d+) socket:/m);
    expect(stdout).not.toContain("anon_inode:");
  });

  test("reaches the command as systemd describes it for socket activation", async () => {
    const { stdout } = await bash(
      `LISTEN_FDS=1 LISTEN_FDNAMES=web exec bash -c 'LISTEN_PID=$$ exec $RUN sh -c "echo \\$LISTEN_PID is \\$\\$, \\$LISTEN_FDS \\$LISTEN_FDNAMES"' 3</etc/hostname`,
    );
    const [, pid, own] = /^(\d+) is (\d+), 1 web$/m.exec(stdout) ?? [];
    expect(pid).toBe(own);
    expect(pid).toBeDefined();
  });
});
