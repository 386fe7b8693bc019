import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { fitted } from "../../src/cli/redraw.ts";
import { cli, Terminal } from "../support/cli.ts";
import { connect, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { createLocker } from "../support/locker.ts";
import { isStopped, taggedProcesses } from "../support/tagged-processes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const patient = { deadline: 15_000 };
const take = "\u001b[?1049h\u001b[?25l";
const giveBack = "\u001b[?25h\u001b[?1049l";

function watch(args: readonly string[] = [], env = {}): Terminal {
  return Terminal.cli(["ls", "--watch=100ms", ...args], onDatabase(env));
}

/** Resolves when the terminal's screen matches. */
async function screenOf(terminal: Terminal, isRight: (screen: string) => boolean): Promise<string> {
  return await until(() => isRight(terminal.screen) && terminal.screen, patient).catch((cause: unknown) => {
    throw new Error(`the screen is not right:\n${terminal.screen}`, { cause });
  });
}

describe("pg-locker ls --watch", () => {
  test("redraws when a lock is taken, waited for, and released", async () => {
    await using terminal = watch();
    await terminal.shows("No locks");
    const pool = createPool();
    await using locker = createLocker({ pool, sessions: "dedicated" });
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    await screenOf(terminal, (screen) => /^held /m.test(screen));
    expect(terminal.screen).toContain(key);
    await using waiter = createLocker({ pool, sessions: "dedicated" });
    const waits = waiter.acquire(key, { wait: true });
    await screenOf(terminal, (screen) => /^ {2}waits /m.test(screen));
    await lock.release();
    await (await waits).release();
    await screenOf(terminal, (screen) => screen.includes("No locks"));
    terminal.type("\x03");
    expect(await terminal.ended).toMatchObject({ status: 130 });
  });

  test("shows how often it redraws, and how to end it", async () => {
    await using terminal = Terminal.cli(["ls", "--watch"], onDatabase());
    await screenOf(terminal, (screen) =>
      /pg-locker ls, every 2 s, .*; Ctrl-C ends\n\nDatabase .*\nNo locks/.test(screen),
    );
  });

  test.each([
    ["Ctrl-C", (terminal: Terminal) => terminal.type("\x03"), 130],
    ["Ctrl-\\", (terminal: Terminal) => terminal.type("\x1c"), 131],
    ["SIGTERM", (terminal: Terminal) => terminal.signal("SIGTERM"), 143],
    ["SIGHUP", (terminal: Terminal) => terminal.signal("SIGHUP"), 129],
  ] as const)("restores the screen and the cursor at %s", async (_, end, status) => {
    // A period longer than the test, so the command must end at once.
    await using terminal = Terminal.cli(["ls", "--watch=10m"], onDatabase());
    await terminal.shows("No locks");
    end(terminal);
    expect(await terminal.ended).toMatchObject({ status });
    expect(terminal.output.split(take)).toHaveLength(2);
    expect(terminal.output.endsWith(giveBack)).toBe(true);
    expect(taggedProcesses()).toEqual([]);
  });

  test.each([
    ["an error that nobody catches", "throw new Error('nobody catches it')", 70],
    ["a rejection that nobody catches", "Promise.reject(new Error('nobody catches it'))", 70],
    ["an exit in its middle", "process.exit(3)", 3],
  ])("restores the screen and the cursor at %s, before its message", async (_, end, status) => {
    const atSignal = `data:text/javascript,process.on("SIGUSR2", () => { ${end}; })`;
    const env = { NODE_OPTIONS: `--import=${encodeURI(atSignal)}` };
    await using terminal = Terminal.cli(["ls", "--watch=10m"], onDatabase(env));
    await terminal.shows("No locks");
    terminal.signal("SIGUSR2");
    expect(await terminal.ended).toMatchObject({ status });
    const [before = "", after, ...more] = terminal.output.split(giveBack);
    expect(before).not.toContain("nobody catches it");
    expect(after).toMatch(status === 70 ? /^pg-locker: Unexpected error: nobody catches it/ : /^$/);
    expect(more).toEqual([]);
  });

  test("ends at once at Ctrl-C, even while the server does not answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using terminal = watch([], { DATABASE_URL: proxy.url });
    await terminal.shows("No locks");
    proxy.freeze();
    await until(() => proxy.size > 0, patient);
    const start = performance.now();
    terminal.type("\x03");
    expect(await terminal.ended).toMatchObject({ status: 130 });
    // Less than the five seconds that the server is given.
    expect(performance.now() - start).toBeLessThan(4_000);
    expect(terminal.output.endsWith(giveBack)).toBe(true);
    proxy.cut();
  });

  test("goes on when the database is away for a moment", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using terminal = watch([], { DATABASE_URL: proxy.url });
    await terminal.shows("No locks");
    await proxy.refuse();
    proxy.cut();
    await screenOf(terminal, (screen) => screen.includes("Looking at locks failed"));
    await proxy.accept();
    await screenOf(terminal, (screen) => screen.includes("No locks"));
    terminal.type("\x03");
    expect(await terminal.ended).toMatchObject({ status: 130 });
  });

  test("doesn't switch the screen if the first look fails: 69, and a line in red", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await proxy.refuse();
    await using terminal = watch([], { DATABASE_URL: proxy.url });
    expect(await terminal.ended).toMatchObject({ status: 69 });
    expect(terminal.output.startsWith("\u001b[31mpg-locker:\u001b[39m Looking at locks failed")).toBe(true);
    expect(terminal.output).not.toContain(take);
    await using plain = watch([], { DATABASE_URL: proxy.url, NO_COLOR: "1" });
    expect(await plain.ended).toMatchObject({ status: 69 });
    expect(plain.output).toMatch(/^pg-locker: Looking/);
  });

  test("shows as many lines as the terminal has, and redraws when its size changes", async () => {
    const client = await connect({ application_name: "x" });
    await client.query("select pg_advisory_lock(id) from generate_series(1, 60) as id");
    // The next regular redraw would come too late.
    await using terminal = Terminal.cli(["ls", "--watch=10m"], onDatabase());
    const rows = (screen: string) => screen.split("\n").length;
    const last = (screen: string) => screen.split("\n").at(-1) ?? "";
    await screenOf(terminal, (screen) => /^… and \d+ more lines$/.test(last(screen)));
    expect(rows(terminal.screen)).toBe(30);
    expect(last(terminal.screen)).toBe("… and 35 more lines");
    terminal.resize({ columns: 200, rows: 100 });
    await screenOf(terminal, (screen) => rows(screen) === 64);
    expect(terminal.screen).not.toContain("more lines");
    terminal.resize({ columns: 50, rows: 9 });
    // The first line, a blank line, and two locks of three lines each, with the headings above them.
    await screenOf(terminal, (screen) => screen.includes("more lines"));
    await screenOf(terminal, (screen) => rows(screen) < 9);
    terminal.resize({ columns: 20, rows: 2 });
    await screenOf(terminal, (screen) => /^\n?… and 64 more lines/.test(screen));
    terminal.type("\x03");
    await terminal.ended;
    await client.query("select pg_advisory_unlock_all()");
  });

  test("shows no password in what `ps` shows", async () => {
    const url = new URL(databaseUrl());
    url.password = "not-for-your-eyes";
    await using terminal = watch([`--url=${url.href}`], { DATABASE_URL: undefined });
    await terminal.shows("No locks");
    expect(taggedProcesses().map(({ command }) => command)).toEqual(["pg-locker ls"]);
  });

  test.each([
    [["--watch"], "--watch redraws a terminal: it works neither with --json nor in a pipe"],
    [["--watch", "5"], 'Unexpected "5" after --watch: a value is given as --watch=5'],
  ])("needs a terminal: %s", async (args, sentence) => {
    const { status, stderr } = await cli(["ls", ...args], onDatabase());
    expect([status, stderr]).toEqual([64, `pg-locker: ${sentence}\n`]);
  });

  test.each([
    [["--watch", "--json"], "it works neither with --json nor in a pipe"],
    [["--watch=0"], 'Expected --watch to be from 100ms to 596h, got "0"'],
    [["--watch=9999h"], "Expected --watch to be from 100ms to 596h"],
    [["--watch=often"], "Expected --watch to be a duration"],
  ])("refuses %s", async (args, sentence) => {
    await using terminal = Terminal.cli(["ls", ...args], onDatabase());
    expect(await terminal.ended).toMatchObject({ status: 64 });
    expect(terminal.output).toContain(sentence);
  });
});

const bash = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].find((file) => existsSync(file));

test.skipIf(bash === undefined)(
  "Ctrl-Z gives the screen back to the shell, fg takes it (skipped without bash)",
  async () => {
    const { env } = onDatabase({ PS1: "ready> ", HISTFILE: undefined });
    await using terminal = Terminal.start(bash ?? "", ["--norc", "--noprofile", "-i"], { env });
    await terminal.typeAtPrompt("$PG_LOCKER ls --watch=100ms\r");
    await terminal.shows("No locks");
    const pid = taggedProcesses().find(({ pid }) => pid !== terminal.pid)?.pid ?? 0;
    // Several times, because a look may be under way or not.
    for (const _ of [1, 2, 3, 4]) {
      const before = terminal.output.length;
      const said = (text: string) => () => terminal.output.slice(before).includes(text);
      terminal.type("\x1a");
      await until(said("Stopped"), patient);
      expect(isStopped(pid)).toBe(true);
      await terminal.typeAtPrompt("fg\r");
      await until(said(take), patient);
      await until(said("No locks"), patient);
    }
    terminal.type("\x03");
    await terminal.typeAtPrompt("echo status $?; exit\r");
    await terminal.shows("status 130");
    await terminal.ended;
    // Between giving the screen back and taking it again, and before and after, the screen is the shell's.
    const shells = terminal.output.split(take).map((part) => part.split(giveBack).at(-1));
    expect(shells.join()).not.toContain("\u001b[2J");
  },
);

describe("what is shown of a text that has to fit the terminal", () => {
  test.each([
    ["all of it", "a\nb\nc", { rows: 3, columns: 10 }, "a\nb\nc"],
    ["as much as there is room for", "a\nb\nc\nd", { rows: 3, columns: 10 }, "a\nb\n… and 2 more lines"],
    ["a long line on several rows", "aaaaaa\nb\nc", { rows: 4, columns: 2 }, "aaaaaa\n… and 2 more lines"],
    ["wide characters on several rows", "価格\nb\nc", { rows: 3, columns: 3 }, "価格\n… and 2 more lines"],
    [
      "colours, which take no room",
      "\u001b[1mab\u001b[22m\nb",
      { rows: 2, columns: 2 },
      "\u001b[1mab\u001b[22m\nb",
    ],
    ["next to nothing", "a\nb\nc", { rows: 1, columns: 10 }, "… and 3 more lines"],
    ["the usual size, if the terminal does not tell", "a\nb", { rows: 0, columns: 0 }, "a\nb"],
    ["one line less", "a\nb\ncccc", { rows: 3, columns: 3 }, "a\nb\n… and 1 more line"],
  ])("is %s", (_, text, size, shown) => {
    expect(fitted(text, size)).toBe(shown);
  });
});
