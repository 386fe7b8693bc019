import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { hasCode } from "../../contract/caught-error.ts";
import { isObject } from "../../contract/option-checks.ts";
import type { PostgresSession } from "../../testing/index.ts";
import { type Failure, unavailableFailure } from "../failure.ts";
import { waysOut } from "./folder.ts";

// The messages between a command and the keeper of the user's own server: one line of JSON in each direction. The server is in use for as
// long as the connection of a visit that `wants: "use"` is open.

/** What a command wants. */
export interface Request {
  readonly wants: "use" | "status" | "stop";
  /** For a stop: also end the open sessions. */
  readonly force?: boolean;
}

/** The state of the server. While it starts or stops, fields that are not known yet are missing. */
export interface ServerStatus {
  readonly state: "starting" | "running" | "stopping";
  readonly folder: string;
  /** The process id of the keeper. */
  readonly keeper: number;
  /** How long it may be unused, in milliseconds. */
  readonly idleTime: number;
  readonly version?: string;
  /** The process id of the postmaster. */
  readonly pid?: number;
  /** An ISO 8601 time. */
  readonly since?: string;
  readonly sessions?: readonly PostgresSession[];
  /** How many commands use it. */
  readonly users?: number;
  /** Milliseconds until it stops, if nobody uses it. */
  readonly idleTimeLeft?: number;
}

export type KeeperAnswer =
  /** The server accepts connections. `started`: it was started for this command. */
  | { readonly is: "ready"; readonly started: boolean; readonly idleTime: number }
  | { readonly is: "status"; readonly status: ServerStatus }
  | { readonly is: "stopped" }
  /** The server was not stopped, because these use it. */
  | { readonly is: "in-use"; readonly users: number; readonly sessions: readonly PostgresSession[] }
  | { readonly is: "failed"; readonly sentence: string };

/** The answers to each request, besides `failed`. */
const answersTo: Readonly<Record<Request["wants"], readonly KeeperAnswer["is"][]>> = {
  use: ["ready"],
  status: ["status"],
  stop: ["stopped", "in-use"],
};

/** The longest line that is read, in characters: far more than a status with all sessions has. */
const longestLine = 1_000_000;

/** An open connection to the keeper. */
export class Visit {
  readonly #socket: Socket;
  readonly #path: string;

  private constructor(socket: Socket, path: string) {
    this.#socket = socket;
    this.#path = path;
    // A command that has finished can exit even if it hasn't left.
    socket.unref();
    socket.on("error", () => {});
  }

  /** Returns `undefined` if no keeper listens at the path. */
  static async open(path: string): Promise<Visit | undefined> {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return new Visit(socket, path);
    } catch (error) {
      socket.destroy();
      if (isNobodyThere(error)) return undefined;
      throw error;
    }
  }

  /**
   * Returns `undefined` if there is no answer: the keeper has gone, `deadline` milliseconds have passed, or the signal was aborted.
   *
   * @throws {Failure} the answer is not a keeper's
   */
  async ask(
    request: Request,
    { deadline, signal }: { deadline: number; signal?: AbortSignal | undefined },
  ): Promise<KeeperAnswer | undefined> {
    const socket = this.#socket;
    socket.ref();
    const over = AbortSignal.timeout(Math.max(0, deadline));
    try {
      const line = firstLine(socket, signal === undefined ? over : AbortSignal.any([signal, over]));
      socket.write(`${JSON.stringify(request)}\n`);
      const said = await line;
      if (said === undefined) return undefined;
      const answer = parsed(said);
      if (isAnswer(answer) && ["failed", ...answersTo[request.wants]].includes(answer.is)) return answer;
      throw strangerAt(this.#path);
    } finally {
      socket.unref();
    }
  }

  leave(): void {
    this.#socket.destroy();
  }
}

/** The failure of a command that reaches something that gives no answer of a keeper. */
export function strangerAt(path: string): Failure {
  return unavailableFailure(
    `What listens on the socket ${path} does not answer as the keeper of your own PostgreSQL does in this release of pg-locker: end it, or ${waysOut}`,
  );
}

/**
 * The first line that arrives on a socket, without its end. Whatever is at the other end, this reads at most {@link longestLine}.
 *
 * @returns `undefined` if the socket closes, or the signal aborts, before a whole line has arrived; the beginning of a line that is too long
 */
export function firstLine(socket: Socket, signal?: AbortSignal): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = "";
    const settle = (line: string | undefined): void => {
      socket.removeListener("data", onData);
      socket.removeListener("close", onClose);
      signal?.removeEventListener("abort", onClose);
      resolve(line);
    };
    const onData = (chunk: string): void => {
      text += chunk;
      const end = text.indexOf("\n");
      if (end !== -1) settle(text.slice(0, end));
      else if (text.length > longestLine) settle(text);
    };
    const onClose = (): void => settle(undefined);
    socket.setEncoding("utf8").on("data", onData);
    socket.once("close", onClose);
    signal?.addEventListener("abort", onClose);
    if (signal?.aborted || socket.destroyed) onClose();
  });
}

/** The value of a line of JSON; `undefined` if it is none. */
export function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function isAnswer(said: unknown): said is KeeperAnswer {
  if (!isObject(said)) return false;
  const { is, started, idleTime, status, users, sessions, sentence } = said;
  switch (is) {
    case "ready":
      return typeof started === "boolean" && typeof idleTime === "number";
    case "status":
      return isStatus(status);
    case "stopped":
      return true;
    case "in-use":
      return typeof users === "number" && areSessions(sessions);
    case "failed":
      return typeof sentence === "string" && sentence !== "";
    default:
      return false;
  }
}

function isStatus(said: unknown): said is ServerStatus {
  if (!isObject(said)) return false;
  const {
    state,
    folder,
    keeper,
    idleTime,
    version = "",
    pid = 0,
    since = "",
    sessions = [],
    users = 0,
  } = said;
  const { idleTimeLeft = 0 } = said;
  return (
    ["starting", "running", "stopping"].includes(String(state)) &&
    [folder, version, since].every((each) => typeof each === "string") &&
    [keeper, idleTime, pid, users, idleTimeLeft].every((each) => typeof each === "number") &&
    areSessions(sessions)
  );
}

function areSessions(said: unknown): boolean {
  return (
    Array.isArray(said) &&
    said.every((each: unknown) => isObject(each) && typeof each["applicationName"] === "string")
  );
}

/** Whether nobody listens on a socket: it doesn't exist, it is left over, or its listener has just gone. */
export function isNobodyThere(error: unknown): boolean {
  return hasCode(error, "ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE");
}
