import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import pty from "@lydell/node-pty";
import { until } from "./until.ts";

// The built `pg-locker`, which `npm test` builds first: as a plain child, and in a terminal.

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface CliOptions {
  /** On top of this process's own; `undefined` takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** The system user to run it as: for root. */
  readonly account?: { readonly uid: number; readonly gid: number } | undefined;
  /** Of a terminal; default 100. */
  readonly columns?: number;
  /** Its program, if it is installed elsewhere. */
  readonly program?: string;
}

/** How a run of `pg-locker` ended, and what it wrote. */
export interface CliResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `pg-locker` to its end, with nothing on its standard input. */
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
    // `close`, not `exit`: by then everything that was written has been read.
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

  /** Waits until its standard output, or its standard error, has the text. */
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

  /** Kills it, also when it is stopped, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.ended;
  }
}

/** A program in a terminal of its own, of 30 lines: the controlling one of its session. */
export class Terminal implements AsyncDisposable {
  /** Everything that came out, with its control sequences. */
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

  /** Runs any program, such as an interactive shell, in which `pg-locker` is `$PG_LOCKER`. */
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

  /** Types it; `\x03` is Ctrl-C, `\x1a` Ctrl-Z. */
  type(text: string): void {
    this.#typedAt = this.output.length;
    this.#pty.write(text);
  }

  /**
   * Types a line at the prompt, `ready> `, that an interactive bash shows after what was typed last: what is typed before that, while bash
   * takes the terminal back, may be lost.
   */
  async typeAtPrompt(line: string): Promise<void> {
    await until(() => this.output.includes("ready> ", this.#typedAt), {
      deadline: 15_000,
      what: `a prompt in the terminal:\n${this.output}`,
    });
    this.type(line);
  }

  /** What is on its screen since it was last cleared, as lines of text. */
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

/** Without what says which database to use, or which colours, so that a test says it itself. */
function environment(changes: CliOptions["env"] = {}): Record<string, string> {
  const names = /^(PG|DATABASE_URL$|NO_COLOR$|FORCE_COLOR$)/;
  const kept = Object.entries(process.env).filter(([name]) => !names.test(name));
  const all = { ...Object.fromEntries(kept), ...changes };
  return Object.fromEntries(
    Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
