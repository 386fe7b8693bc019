import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { Terminal } from "../support/cli.ts";
import { holdersOf, uniqueKey } from "../support/database.ts";
import { idle, onDatabase } from "../support/locked-command.ts";
import { isStopped, lives } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

const bash = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].find((file) => existsSync(file));
const patient = { deadline: 15_000 };

/** Starts `pg-locker run` with a shell script in a terminal, and waits until the script has begun. */
async function runInTerminal(script: string, args: readonly string[] = []) {
  const command = ["sh", "-c", `echo "begun $$"; ${script}`];
  const terminal = Terminal.cli(["run", uniqueKey(), ...args, "--", ...command], onDatabase());
  try {
    await terminal.shows(/begun \d+/);
  } catch (error) {
    await terminal[Symbol.asyncDispose]();
    throw error;
  }
  return terminal;
}

/** Starts an interactive bash whose prompt is `ready>`. */
async function startBash(): Promise<Terminal> {
  const { env } = onDatabase({ PS1: "ready> ", HISTFILE: undefined, KEY: uniqueKey() });
  const terminal = Terminal.start(bash ?? "", ["--norc", "--noprofile", "-i"], { env });
  await terminal.shows("ready> ");
  return terminal;
}

describe("in a terminal", () => {
  test("the command reads from it, and writes to it", async () => {
    await using terminal = await runInTerminal(
      'test -t 0 && test -t 1 && read line; echo "got <$line>"; exit 4',
    );
    terminal.type("some words\r");
    await terminal.shows("got <some words>");
    expect((await terminal.ended).status).toBe(4);
  });

  test("Ctrl-C reaches the command, once", async () => {
    const script = "trap 'echo caught' INT; echo ready; until read line; do :; done; exit 4";
    await using terminal = await runInTerminal(script);
    await terminal.shows("ready");
    terminal.type("\x03");
    await terminal.shows("caught");
    terminal.type("on\r");
    expect((await terminal.ended).status).toBe(4);
    expect(terminal.output.match(/caught/g)).toHaveLength(1);
  });

  test("Ctrl-C ends a command that doesn't handle it: 130", async () => {
    await using terminal = await runInTerminal(idle);
    terminal.type("\x03");
    expect((await terminal.ended).status).toBe(130);
  });

  test("Ctrl-\\ reaches the command", async () => {
    await using terminal = await runInTerminal(`trap 'echo caught; exit 4' QUIT; echo ready; ${idle}`);
    await terminal.shows("ready");
    terminal.type("\x1c");
    expect((await terminal.ended).status).toBe(4);
  });

  test("Ctrl-Z without a shell that could continue the run doesn't end it", async () => {
    await using terminal = await runInTerminal('read line; echo "got <$line>"');
    terminal.type("\x1a");
    await until(() => terminal.output.includes("^Z"), patient);
    terminal.type("on\r");
    await terminal.shows("got <on>");
    expect((await terminal.ended).status).toBe(0);
  });
});

describe.skipIf(bash === undefined)("in an interactive bash (skipped without bash)", () => {
  test("Ctrl-Z stops the command and gives the prompt back, and fg goes on", async () => {
    await using terminal = await startBash();
    terminal.type(
      `$PG_LOCKER run $KEY --ttl 10m -- sh -c 'echo "begun $$"; read line; echo "got <$line>"'\r`,
    );
    await terminal.shows(/begun \d+/);
    const pid = Number(/begun (\d+)/.exec(terminal.output)?.[1]);
    terminal.type("\x1a");
    await terminal.shows(/Stopped/);
    await terminal.typeAtPrompt("echo still $((40 + 2))\r");
    await terminal.shows("still 42");
    await until(() => isStopped(pid), patient);
    await terminal.typeAtPrompt("fg\r");
    await until(() => !isStopped(pid), patient);
    terminal.type("on\r");
    await terminal.shows("got <on>");
    await terminal.typeAtPrompt("echo status $?; exit\r");
    await terminal.shows("status 0");
    await terminal.ended;
  });

  test("Ctrl-C ends the command, and the shell goes on", async () => {
    await using terminal = await startBash();
    terminal.type(`$PG_LOCKER run $KEY -- sh -c 'echo "begun $$"; ${idle}'\r`);
    await terminal.shows(/begun \d+/);
    terminal.type("\x03");
    await terminal.typeAtPrompt("echo status $?\r");
    await terminal.shows("status 130");
    await terminal.typeAtPrompt("exit\r");
    await terminal.ended;
  });

  test("the command gets SIGHUP when the terminal goes away", async () => {
    const terminal = await startBash();
    const script = `trap "" TERM; echo "begun $$"; ${idle}`;
    terminal.type(`$PG_LOCKER run $KEY --ttl 10m --grace 5m -- sh -c '${script}'\r`);
    await terminal.shows(/begun \d+/);
    const pid = Number(/begun (\d+)/.exec(terminal.output)?.[1]);
    expect(lives(pid)).toBe(true);
    // When the leader of its session ends, the terminal goes away.
    await terminal[Symbol.asyncDispose]();
    await until(() => !lives(pid), patient);
  });

  test("a command that stays stopped ends before somebody else can get its lock", async () => {
    await using terminal = await startBash();
    terminal.type(
      `$PG_LOCKER run $KEY --ttl 6s --grace 1s -- sh -c 'echo "begun $$ $PG_LOCKER_ID"; ${idle}'\r`,
    );
    await terminal.shows(/begun \d+ -?\d+/);
    const [, pid, id] = /begun (\d+) (-?\d+)/.exec(terminal.output) ?? [];
    terminal.type("\x1a");
    await terminal.shows(/Stopped/);
    await until(() => !lives(Number(pid)), patient);
    expect(await holdersOf(BigInt(id ?? ""))).toHaveLength(1);
    await until(async () => (await holdersOf(BigInt(id ?? ""))).length === 0, patient);
    await terminal.typeAtPrompt("fg\r");
    await terminal.shows("could not be refreshed in time");
    await terminal.typeAtPrompt("echo status $?; exit\r");
    await terminal.shows("status 79");
    await terminal.ended;
  });
});
