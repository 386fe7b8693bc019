import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";

/** One entry of a server's log, with the lines that explain it (DETAIL, CONTEXT, STATEMENT) one by one. */
export interface LogEntry {
  /** The pid of the process that wrote it. */
  readonly pid: number;
  readonly severity: string;
  readonly text: string;
}

/**
 * The log of a test's own server. An error is logged before its client is told, so there is nothing to wait for: an entry that isn't there
 * when the answer is was never written.
 */
export class ServerLog {
  readonly #file: string;
  #from = 0;

  constructor(server: PostgresServer) {
    this.#file = join(dirname(server.dataDirectory), "server.log");
  }

  /** Forgets what was logged until now. */
  async mark(): Promise<void> {
    this.#from = (await readFile(this.#file, "utf8")).length;
  }

  /** The entries since {@link mark}, or since the start of the server; those of one process if `pid` names it. */
  async entries(pid?: number): Promise<LogEntry[]> {
    const text = (await readFile(this.#file, "utf8")).slice(this.#from);
    const found: LogEntry[] = [];
    // The prefix is PostgreSQL's default, `%m [%p] `; the lines of a text after its first begin with a tab.
    for (const line of text.replaceAll("\n\t", " ").split("\n")) {
      const [, process, severity, rest] = /^\S+ \S+ \S+ \[(\d+)\] ([A-Z]+): +(.*)$/.exec(line) ?? [];
      if (severity === undefined || rest === undefined) continue;
      if (pid === undefined || Number(process) === pid)
        found.push({ pid: Number(process), severity, text: rest });
    }
    return found;
  }

  /** The {@link entries} that are errors or warnings. */
  async complaints(pid?: number): Promise<LogEntry[]> {
    const severities = ["WARNING", "ERROR", "FATAL", "PANIC"];
    return (await this.entries(pid)).filter(({ severity }) => severities.includes(severity));
  }
}
