import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";

/** What a server wrote to its log in one go, with the lines that explain it (DETAIL, CONTEXT, STATEMENT) one by one. */
export interface LogEntry {
  /** Of the process that wrote it. */
  readonly pid: number;
  readonly severity: string;
  readonly text: string;
}

/**
 * The log of a server of a test's own. An error is in it before its client is told, so that nothing is to be waited for: what is
 * not there when the answer is, was never written.
 */
export class ServerLog {
  readonly #file: string;
  #from = 0;

  constructor(server: PostgresServer) {
    this.#file = join(dirname(server.dataDirectory), "server.log");
  }

  /** Forgets what was written until now. */
  async mark(): Promise<void> {
    this.#from = (await readFile(this.#file, "utf8")).length;
  }

  /** What was written since {@link mark}, or since the start of the server; by one process if `pid` names it. */
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

  /** Of {@link entries} those that are errors or warnings. */
  async complaints(pid?: number): Promise<LogEntry[]> {
    const severities = ["WARNING", "ERROR", "FATAL", "PANIC"];
    return (await this.entries(pid)).filter(({ severity }) => severities.includes(severity));
  }
}
