import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { quote } from "../contract/plain-text.ts";
import { didYouMean, readArguments } from "./arguments.ts";
import { askedDatabase } from "./asked-database.ts";
import type { Command } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { messageFor, statusOf, usageFailure } from "./failure.ts";
import { provideNavigator } from "./navigator.ts";
import { print } from "./print.ts";
import { expectUtf8 } from "./raw-arguments.ts";
import { tellUser, tellUserAtOnce } from "./tell-user.ts";

/** The commands. Each one is loaded only when it is used. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  run: async () => (await import("./run.ts")).run,
  ls: async () => (await import("./ls.ts")).ls,
  who: async () => (await import("./who.ts")).who,
  break: async () => (await import("./break.ts")).breakLock,
  id: async () => (await import("./id.ts")).id,
  doctor: async () => (await import("./doctor.ts")).doctor,
  server: async () => (await import("./server.ts")).server,
  demo: async () => (await import("./demo.ts")).demo,
};

/** The names that other programs have for a command. */
const meant: Readonly<Record<string, string>> = {
  ...{ acquire: "run", exec: "run", flock: "run", lock: "run", with: "run" },
  ...{ kill: "break", release: "break", steal: "break", unlock: "break" },
  ...{ list: "ls", locks: "ls", ps: "ls", top: "ls --watch", watch: "ls --watch" },
  ...{ holder: "who", show: "who" },
  ...{ check: "doctor", diagnose: "doctor", health: "doctor", ping: "doctor" },
  ...{ start: "server status", status: "server status", stop: "server stop" },
  ...{ version: "--version", "-V": "--version", "-v": "--version" },
};

/** Milliseconds after which the process exits even if the command has left something open, such as a name that is being resolved. */
const farewell = 1_000;

/** Does what this process's arguments say. Whatever goes wrong is told on standard error, and by the exit status. */
export function runCommandLine(): void {
  provideNavigator();
  // The driver throws in its listeners if something else than PostgreSQL answers. The status would be 1, which means something.
  process.once("uncaughtException", (error) => {
    tellUserAtOnce(`pg-locker: Unexpected error: ${messageFor(error)}`);
    if (isVerbose(process.argv)) tellUserAtOnce(inspect(error));
    process.exit(exitStatus.failed);
  });
  void main(process.argv.slice(2)).then((status) => {
    process.exitCode = status;
    setTimeout(() => process.exit(), farewell).unref();
  });
}

async function main(args: readonly string[]): Promise<number> {
  const [name, ...own] = args;
  try {
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      const [of] = name === "help" ? own : [];
      const about = of === undefined ? undefined : await commandOf(of);
      if (of !== undefined && about === undefined) throw usageFailure(unknownCommand(of));
      await print(about === undefined ? await help() : helpOf(about));
      return name === undefined ? exitStatus.usage : exitStatus.ok;
    }
    if (name === "--version") {
      await print(version());
      return exitStatus.ok;
    }
    const command = await commandOf(name);
    if (command === undefined) throw usageFailure(unknownCommand(name));
    const behind = command.takesRest === true ? args.indexOf("--") : -1;
    expectUtf8(behind === -1 ? args : args.slice(0, behind));
    const given = readArguments(command, own);
    if (given.values["help"] === true) {
      await print(helpOf(command));
      return exitStatus.ok;
    }
    // A URL may hold a password, and every user can see what `ps` shows.
    if (given.values["url"] !== undefined) process.title = `pg-locker ${command.name}`;
    return await command.run(given);
  } catch (error) {
    await report(error, { verbose: isVerbose(args) });
    return statusOf(error);
  }
}

function isVerbose(args: readonly string[]): boolean {
  return args.slice(0, args.indexOf("--") + 1 || undefined).includes("--verbose");
}

function unknownCommand(name: string): string {
  const known = Object.hasOwn(meant, name) ? meant[name] : undefined;
  if (known !== undefined) return `Unknown command ${quote(name)}: did you mean pg-locker ${known}?`;
  if (name.startsWith("-")) return `Expected a command, got ${quote(name)}: pg-locker COMMAND [options]`;
  return `Unknown command ${quote(name)}: ${didYouMean(name, Object.keys(commands)) ?? "see pg-locker --help"}`;
}

function commandOf(name: string): Promise<Command> | undefined {
  return Object.hasOwn(commands, name) ? commands[name]?.() : undefined;
}

async function help(): Promise<string> {
  const all = await Promise.all(Object.values(commands).map((load) => load()));
  const widest = Math.max(...all.map((each) => each.name.length));
  const lines = all.map((each) => `  ${each.name.padEnd(widest)}   ${each.summary}`);
  return `pg-locker: distributed locks on the PostgreSQL you already run

Usage: pg-locker COMMAND [options]

${lines.join("\n")}

"pg-locker COMMAND --help" shows the options of a command, and an example.
The database is the one of --url, else of DATABASE_URL, else of PGHOST and the
like; else a PostgreSQL of your own on this machine, which starts when needed.
With --verbose, an error shows where it comes from.

Example:
  pg-locker run nightly --wait=10m -- ./report.sh`;
}

function helpOf(command: Command): string {
  return `Usage: pg-locker ${command.name} ${command.synopsis}\n\n${command.help}`;
}

function version(): string {
  const file = new URL("../../package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(file, "utf8")) as { version: string };
  return version;
}

/** Says what went wrong in one line; with `--verbose`, the stack follows. */
async function report(error: unknown, { verbose }: { verbose: boolean }): Promise<void> {
  const red = await redFor(process.stderr);
  const sentence = messageFor(error);
  const database = statusOf(error) === exitStatus.unavailable ? askedDatabase() : undefined;
  const where = database === undefined ? "" : `; asked ${database}`;
  tellUser(`${red("pg-locker:")} ${sentence}${where}`);
  if (verbose) tellUser(inspect(error));
}

/** The colour of an error; none if it can't be loaded, such as because too many files are open. */
async function redFor(stream: NodeJS.WriteStream): Promise<(text: string) => string> {
  try {
    const { colorsFor } = await import("./colors.ts");
    return colorsFor(stream).red;
  } catch {
    return (text) => text;
  }
}
