import { existsSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import type { LockIdKind } from "../../contract/lock-id-kind.ts";
import { quote } from "../../contract/plain-text.ts";
import { descriptionComment } from "../../inspection/lock-description.ts";
import type { CommandLine, Values } from "../command.ts";
import { durationOf, secondsOf } from "../duration.ts";
import { exitStatus } from "../exit-status.ts";
import { tooFewFiles, tooFewProcesses, usageFailure } from "../failure.ts";
import { type HowLocksAreTaken, howLocksAreTaken } from "../how-locks-are-taken.ts";
import { lockIdKindOf, lockIdOf } from "../lock-ids.ts";
import { namespaceOf } from "../namespace.ts";
import { rawArguments } from "../raw-arguments.ts";
import { marginOf } from "./deadline.ts";
import { type Program, programOf } from "./program.ts";

/** What a `pg-locker run` has to do. Times are in milliseconds. */
export interface RunPlan {
  readonly key: string;
  readonly namespace: number;
  readonly lockIds: LockIdKind;
  /** The lock id. */
  readonly id: bigint;
  readonly mode: "exclusive" | "shared";
  readonly how: HowLocksAreTaken;
  /** Milliseconds to wait for the lock; 0: don't wait. */
  readonly wait: number | true;
  readonly ttl: number;
  readonly grace: number;
  readonly recoveryGrace: number | undefined;
  readonly margin: number;
  /** The comment that shows the name and the detail to people who look at the lock. */
  readonly description: string | undefined;
  /** The command's name, for sentences. */
  readonly file: string;
  readonly program: Program;
  /** The exit status if the lock isn't acquired, with or without a wait; absent: the status of the reason. */
  readonly conflictStatus: number | undefined;
}

const blank = Buffer.from(" ");
const shortestTtl = 1_000;
/** The longest TTL that the server can enforce, in milliseconds. */
const longestTtl = 2 ** 31 - 1;
const longestDefaultGrace = 10_000;

/**
 * @throws {Failure} an option or the command can't be used, or two options contradict each other
 * @throws {EmptyKeyError} @throws {InvalidKeyError}
 */
export function planOf({ values, positionals: [key = ""], rest }: CommandLine): RunPlan {
  refuseBoth(values, "nonblock", "wait");
  refuseBoth(values, "nonblock", "timeout");
  refuseBoth(values, "wait", "timeout");
  refuseBoth(values, "shared", "exclusive");
  const ttl = ttlOf(values);
  const namespace = namespaceOf(values);
  const lockIds = lockIdKindOf(values);
  return {
    key,
    namespace,
    lockIds,
    // Throws if the key can't be used, before anything is started.
    id: lockIdOf({ key, namespace, lockIds }),
    mode: values["shared"] === true ? "shared" : "exclusive",
    how: howLocksAreTaken(values),
    wait: waitOf(values),
    ttl,
    grace: graceOf(values, ttl),
    recoveryGrace: recoveryGraceOf(values),
    margin: marginOf(ttl),
    description: descriptionOf(values),
    ...commandOf(values, rest),
    conflictStatus: conflictStatusOf(values),
  };
}

const shown: Readonly<Record<string, string>> = {
  nonblock: "-n (--nonblock)",
  timeout: "-w (--timeout)",
  wait: "--wait",
  shared: "-s (--shared)",
  exclusive: "-x (--exclusive)",
};

function refuseBoth(values: Values, one: string, other: string): void {
  if (values[one] === undefined || values[other] === undefined) return;
  throw usageFailure(`Expected one of ${shown[one]} and ${shown[other]}, got both`);
}

function waitOf({ wait, timeout }: Values): number | true {
  if (timeout !== undefined) return secondsOf("-w", String(timeout));
  if (wait === true) return true;
  return wait === undefined ? 0 : durationOf("--wait", String(wait));
}

function ttlOf(values: Values): number {
  const recoveryGrace = recoveryGraceOf(values) ?? longestTtl;
  const given = values["ttl"];
  const ttl = given === undefined ? Math.min(30_000, recoveryGrace) : durationOf("--ttl", String(given));
  if (ttl > recoveryGrace && ttl <= longestTtl) {
    throw usageFailure(
      `Expected --ttl to be at most --recovery-grace, which is ${recoveryGrace / 1_000}s, got ${quote(given)}`,
    );
  }
  if (ttl >= shortestTtl && ttl <= longestTtl) return ttl;
  throw usageFailure(`Expected --ttl to be from 1s to 596h, got ${quote(given)}`);
}

function recoveryGraceOf(values: Values): number | undefined {
  const given = values["recovery-grace"];
  if (given === undefined) return undefined;
  const grace = durationOf("--recovery-grace", String(given));
  if (grace >= shortestTtl && grace <= longestTtl) return grace;
  throw usageFailure(`Expected --recovery-grace to be from 1s to 596h, got ${quote(given)}`);
}

/** At most half of the TTL, because the other half is for the refreshes, which come after a third of it, and for the margin. */
function graceOf(values: Values, ttl: number): number {
  const given = values["grace"];
  if (given === undefined) return Math.min(longestDefaultGrace, ttl / 3);
  const grace = durationOf("--grace", String(given));
  if (grace <= ttl / 2) return grace;
  throw usageFailure(
    `Expected --grace to be at most half of --ttl, which is ${ttl / 1_000}s, got ${quote(given)}`,
  );
}

function descriptionOf({ name, detail }: Values): string | undefined {
  if (name === undefined && detail === undefined) return undefined;
  const comment = descriptionComment({
    ...(name !== undefined && { name: String(name) }),
    ...(detail !== undefined && { detail: String(detail) }),
  });
  if (comment !== undefined) return comment;
  throw usageFailure(
    "Expected --name and --detail to be shorter: some 950 characters together, in which one outside ASCII counts as six",
  );
}

function commandOf(values: Values, rest: readonly string[] | undefined): { file: string; program: Program } {
  const usage = "pg-locker run KEY [options] -- COMMAND";
  if (rest === undefined) throw usageFailure(`Expected -- and a command after it: ${usage}`);
  const [file = ""] = rest;
  if (file === "--") throw usageFailure(`Expected a command after --, got a second --: ${usage}`);
  if (file === "") throw usageFailure(`Expected a command after --, got nothing: ${usage}`);
  const words = rest.length === 0 ? [] : rawArguments().slice(-rest.length);
  if (values["shell"] !== true) return { file, program: programOf(words) };
  const line = Buffer.concat(words.flatMap((word, index) => (index === 0 ? [word] : [blank, word])));
  return { file: "/bin/sh", program: programOf([Buffer.from("/bin/sh"), Buffer.from("-c"), line]) };
}

function conflictStatusOf(values: Values): number | undefined {
  const given = values["conflict-exit-code"];
  if (given === undefined) return undefined;
  const status = Number(given);
  if (/^\d+$/.test(String(given)) && status <= 255) return status;
  throw usageFailure(`Expected -E to be an exit status from 0 to 255, got ${quote(given)}`);
}

/** The file that a command's name refers to; `undefined` if there is none. */
function pathOf(file: string): string | undefined {
  const folders = file.includes("/") ? [""] : (process.env["PATH"] ?? "").split(delimiter);
  return folders.map((folder) => join(folder, file)).find((path) => existsSync(path));
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** The exit status and the sentence for a command that the system could not run. */
export function notRun(file: string, code: string): { status: number; sentence: string } {
  const command = `The command ${quote(file)}`;
  const notFound = { status: exitStatus.notFound, sentence: `${command} was not found` };
  switch (code) {
    case "ENOENT":
      return notFound;
    case "EACCES": {
      const path = pathOf(file);
      // The system also reports this if PATH has a folder that this user may not look into.
      if (path === undefined) return notFound;
      const why = isFolder(path) ? "is a folder" : "is not executable";
      return { status: exitStatus.notExecutable, sentence: `${command} ${why}` };
    }
    case "EMFILE":
    case "ENFILE":
      return { status: exitStatus.failed, sentence: tooFewFiles };
    case "EAGAIN":
    case "ENOMEM":
      return { status: exitStatus.failed, sentence: tooFewProcesses };
    case "E2BIG":
      return {
        status: exitStatus.notExecutable,
        sentence: `${command} could not be run: one of its arguments is too long for the system, or all of them with the environment`,
      };
    default:
      return { status: exitStatus.notExecutable, sentence: `${command} could not be run (${code})` };
  }
}
