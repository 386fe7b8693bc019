import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { hasCode } from "../../contract/caught-error.ts";
import type { PostgresSession } from "../../testing/index.ts";

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

/** An open connection to the keeper. */
export class Visit {
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // A command that has finished can exit even if it hasn't left.
    socket.unref();
    socket.on("error", () => {});
  }

  /** Returns `undefined` if no keeper listens at the path. */
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

  /** Returns `undefined` if there is no answer: the keeper has gone, `deadline` milliseconds have passed, or the signal was aborted. */
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

/** Whether nobody listens on a socket: it doesn't exist, it is left over, or its listener has just gone. */
export function isNobodyThere(error: unknown): boolean {
  return hasCode(error, "ENOENT", "ECONNREFUSED", "ECONNRESET", "EPIPE");
}
