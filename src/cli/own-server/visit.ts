import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { hasCode } from "../../contract/caught-error.ts";
import type { PostgresSession } from "../../testing/index.ts";

// What a command and the keeper of the user's own server say to each other: a line of JSON there, and one back. The server is in
// use for as long as the connection of a visit that `wants: "use"` stays open.

/** What a command comes for. */
export interface Request {
  readonly wants: "use" | "status" | "stop";
  /** Of a stop: end the sessions that there are. */
  readonly force?: boolean;
}

/** How the server is. Where it starts or stops, what is not known yet is missing. */
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
  /** Milliseconds until it stops, where nobody uses it. */
  readonly idleTimeLeft?: number;
}

export type KeeperAnswer =
  /** It accepts connections. `started`: it was started for whoever asks. */
  | { readonly is: "ready"; readonly started: boolean; readonly idleTime: number }
  | { readonly is: "status"; readonly status: ServerStatus }
  | { readonly is: "stopped" }
  /** It is not stopped, for these use it. */
  | { readonly is: "in-use"; readonly users: number; readonly sessions: readonly PostgresSession[] }
  | { readonly is: "failed"; readonly sentence: string };

/** An open connection to the keeper. */
export class Visit {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // A command that is done ends, whether or not it has left.
    socket.unref();
    socket.on("error", () => {});
  }

  /** Answers `undefined` where no keeper listens at the path. */
  static async open(path: string): Promise<Visit | undefined> {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return new Visit(socket);
    } catch (error) {
      socket.destroy();
      if (isNobodyThere(error)) return undefined;
      throw error;
    }
  }

  /** Answers `undefined` where the keeper goes without an answer, or there is none in so many milliseconds or before an abort. */
  async ask(
    request: Request,
    { deadline, signal }: { deadline: number; signal?: AbortSignal | undefined },
  ): Promise<KeeperAnswer | undefined> {
    const socket = this.#socket;
    socket.ref();
    const lines = createInterface({ input: socket, ...(signal !== undefined && { signal }) });
    const timer = setTimeout(() => lines.close(), Math.max(0, deadline));
    try {
      socket.write(`${JSON.stringify(request)}\n`);
      for await (const line of lines) return JSON.parse(line) as KeeperAnswer;
      return undefined;
    } catch (error) {
      if (isNobodyThere(error)) return undefined;
      throw error;
    } finally {
      clearTimeout(timer);
      socket.unref();
    }
  }

  leave(): void {
    this.#socket.destroy();
  }
}

/** Whether nobody listens on a socket: it isn't there, is left over, or its listener has just gone. */
export function isNobodyThere(error: unknown): boolean {
  return hasCode(error, "ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE");
}
