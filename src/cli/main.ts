#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { didYouMean, readArguments } from "./arguments.ts";
import { breakLock } from "./break.ts";
import { colorsFor } from "./colors.ts";
import type { Command } from "./command.ts";
import { demo } from "./demo.ts";
import { doctor } from "./doctor.ts";
import { exitStatus } from "./exit-status.ts";
import { statusOf, usageFailure } from "./failure.ts";
import { id } from "./id.ts";
import { ls } from "./ls.ts";
import { print } from "./print.ts";
import { expectUtf8 } from "./raw-arguments.ts";
import { run } from "./run.ts";
import { server } from "./server.ts";
import { who } from "./who.ts";

const commands: readonly Command[] = [run, ls, who, breakLock, id, doctor, server, demo];

/** Milliseconds that what a command has left open may keep the process from its end. */
const farewell = 1_000;

process.exitCode = await main(process.argv.slice(2));
setTimeout(() => process.exit(), farewell).unref();

async function main(args: readonly string[]): Promise<number> {
  const [name, ...own] = args;
  try {
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      const about = name === "help" ? commands.find((each) => each.name === own[0]) : undefined;
      await print(about === undefined ? help() : helpOf(about));
      return name === undefined ? exitStatus.usage : exitStatus.ok;
    }
    if (name === "--version") {
      await print(version());
      return exitStatus.ok;
    }
    const command = commands.find((each) => each.name === name);
    if (command === undefined) {
      if (name.startsWith("-"))
        throw usageFailure(`Expected a command, got "${name}": pg-locker COMMAND [options]`);
      const names = commands.map((each) => each.name);
      throw usageFailure(`Unknown command "${name}": ${didYouMean(name, names) ?? "see pg-locker --help"}`);
    }
    const behind = command.takesRest === true ? args.indexOf("--") : -1;
    expectUtf8(behind === -1 ? args : args.slice(0, behind));
    const given = readArguments(command, own);
    if (given.values["help"] === true) {
      await print(helpOf(command));
      return exitStatus.ok;
    }
    // A URL may hold a password, and everybody sees what `ps` shows.
    if (given.values["url"] !== undefined) process.title = `pg-locker ${command.name}`;
    return await command.run(given);
  } catch (error) {
    report(error, { verbose: args.slice(0, args.indexOf("--") + 1 || undefined).includes("--verbose") });
    return statusOf(error);
  }
}

function help(): string {
  const widest = Math.max(...commands.map((each) => each.name.length));
  const lines = commands.map((each) => `  ${each.name.padEnd(widest)}   ${each.summary}`);
  return `pg-locker: distributed locks on the PostgreSQL you already run

Usage: pg-locker COMMAND [options]

${lines.join("\n")}

"pg-locker COMMAND --help" shows the options of a command, and an example.
The database is the one of --url, else of DATABASE_URL, else of PGHOST and its
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

/** Says what went wrong, in a line; the stack is for who asks for it. */
function report(error: unknown, { verbose }: { verbose: boolean }): void {
  const { red } = colorsFor(process.stderr);
  const sentence = error instanceof Error ? error.message : String(error);
  console.error(`${red("pg-locker:")} ${sentence}`);
  if (verbose) console.error(error);
}
