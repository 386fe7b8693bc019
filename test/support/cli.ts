import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import pty from "@lydell/node-pty";
import { until } from "./until.ts";

// The built `pg-locker`, which `npm test` builds first: as a plain child, or in a terminal.

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface CliOptions {
  /** Variables to add to this process's environment; `undefined` removes one. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** The system user to run it as, if this process is root. */
  readonly account?: { readonly uid: number; readonly gid: number } | undefined;
  /** The columns of a terminal; default 100. */
  readonly columns?: number;
  /** The path of its program, if it is installed elsewhere. */
  readonly program?: string;
}

/** How a run of `pg-locker` ended, and its output. */
export interface CliResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `pg-locker` until it ends, with an empty standard input. */
export async function cli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  await using child = CliChild.start(args, options);
  child.process.stdin?.end();
  return await child.ended;
}

/** `pg-locker` as a child with three pipes. */
export class CliChild implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly ended: Promise<CliResult>;
  stdout = "";
  stderr = "";

  private constructor(child: ChildProcess) {
    this.process = child;
    child.stdin?.on("error", () => {});
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    // `close`, not `exit`, because by then everything that it wrote has been read.
    this.ended = once(child, "close").then(([status, signal]) => ({
      status: status as number | null,
      signal: signal as NodeJS.Signals | null,
      stdout: this.stdout,
      stderr: this.stderr,
    }));
  }

  static start(args: readonly string[], { env, cwd, account, program = main }: CliOptions = {}): CliChild {
    return new CliChild(
      spawn(process.execPath, [program, ...args], {
        ...account,
        env: environment(env),
        stdio: "pipe",
        ...(cwd !== undefined && { cwd }),
      }),
    );
  }

  /** Waits until its standard output, or its standard error, contains the text. */
  async says(text: string | RegExp, { deadline = 15_000 }: { deadline?: number } = {}): Promise<void> {
    const has = (said: string) => (typeof text === "string" ? said.includes(text) : text.test(said));
    await until(() => has(this.stdout) || has(this.stderr), {
      deadline,
      what: `${text} in what pg-locker says:\n${this.stdout}${this.stderr}`,
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  /** Kills it, even if it is stopped, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.ended;
  }
}

/** A program in a terminal of 30 lines, which is the controlling terminal of its session. */
export class Terminal implements AsyncDisposable {
  /** The whole output, with its control sequences. */
  output = "";
  readonly ended: Promise<{ status: number; signal: number | undefined }>;
  readonly #pty: pty.IPty;
  /** The length of the output when something was last typed. */
  #typedAt = 0;

  private constructor(terminal: pty.IPty) {
    this.#pty = terminal;
    terminal.onData((text) => {
      this.output += text;
    });
    this.ended = new Promise((resolve) => {
      terminal.onExit(({ exitCode, signal }) => resolve({ status: exitCode, signal }));
    });
  }

  /** Runs `pg-locker` itself in the terminal. */
  static cli(args: readonly string[], options: CliOptions = {}): Terminal {
    return Terminal.start(process.execPath, [main, ...args], options);
  }

  /** Runs any program, such as an interactive shell, for which `$PG_LOCKER` runs `pg-locker`. */
  static start(file: string, args: readonly string[], options: CliOptions = {}): Terminal {
    const { env, cwd, columns = 100 } = options;
    return new Terminal(
      pty.spawn(file, [...args], {
        cols: columns,
        rows: 30,
        env: environment({ TERM: "xterm-256color", PG_LOCKER: `${process.execPath} ${main}`, ...env }),
        ...(cwd !== undefined && { cwd }),
      }),
    );
  }

  get pid(): number {
    return this.#pty.pid;
  }

  /** Types a text; `\x03` is Ctrl-C, `\x1a` Ctrl-Z. */
  type(text: string): void {
    this.#typedAt = this.output.length;
    this.#pty.write(text);
  }

  /**
   * Types a line at the prompt `ready> ` that an interactive bash shows after what was typed last. What is typed earlier, while bash takes
   * the terminal back, may be lost.
   */
  async typeAtPrompt(line: string): Promise<void> {
    await until(() => this.output.includes("ready> ", this.#typedAt), {
      deadline: 15_000,
      what: `a prompt in the terminal:\n${this.output}`,
    });
    this.type(line);
  }

  /** The text on its screen since it was last cleared, as lines. */
  get screen(): string {
    const drawn = this.output.slice(this.output.lastIndexOf("\x1b[2J"));
    return stripVTControlCharacters(drawn).replaceAll("\r", "");
  }

  resize(size: { columns: number; rows: number }): void {
    this.#pty.resize(size.columns, size.rows);
  }

  signal(signal: NodeJS.Signals): void {
    this.#pty.kill(signal);
  }

  async shows(text: string | RegExp): Promise<void> {
    const has = () => (typeof text === "string" ? this.output.includes(text) : text.test(this.output));
    await until(has, { deadline: 15_000, what: `${text} in the terminal:\n${this.output}` });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#pty.kill("SIGKILL");
    await this.ended;
  }
}

/** The environment without variables that choose the database or colours, so that a test sets them itself. */
function environment(changes: CliOptions["env"] = {}): Record<string, string> {
  const names = /^(PG|DATABASE_URL$|NO_COLOR$|FORCE_COLOR$)/;
  const kept = Object.entries(process.env).filter(([name]) => !names.test(name));
  const all = { ...Object.fromEntries(kept), ...changes };
  return Object.fromEntries(
    Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
