import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { until } from "./until.ts";

/** One line of JSON that a program wrote to its standard output. */
export type ChildMessage = Readonly<Record<string, unknown>>;

/** How a child ended. */
export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * A program of `test/support/programs/`, run in a Node.js process of its own. The programs are plain JavaScript, because Node.js 20 doesn't
 * strip types; they import the library from `dist/`, which `npm test` builds first.
 */
export class Child implements AsyncDisposable {
  /** Everything that the child has said, in order. */
  readonly messages: ChildMessage[] = [];
  readonly exited: Promise<ChildExit>;
  readonly #process: ChildProcess;
  #exit: ChildExit | undefined;
  #stderr = "";

  private constructor(child: ChildProcess) {
    this.#process = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
    });
    // For a write to a child that has just died.
    child.stdin?.on("error", () => {});
    if (child.stdout) {
      createInterface({ input: child.stdout }).on("line", (line) => {
        try {
          this.messages.push(JSON.parse(line) as ChildMessage);
        } catch {
          this.#stderr += `(standard output, not JSON) ${line}\n`;
        }
      });
    }
    // `close`, not `exit`, because by then everything that it wrote has been read.
    this.exited = once(child, "close").then(([code, signal]) => {
      this.#exit = { code, signal } as ChildExit;
      return this.#exit;
    });
  }

  /** Starts `test/support/programs/<program>`, such as `"hold.mjs"`. */
  static start(
    program: string,
    options: {
      args?: readonly string[];
      env?: Readonly<Record<string, string>>;
      /** The beginning of the command, such as a program that runs it elsewhere. */
      prefix?: readonly string[];
    } = {},
  ): Child {
    const path = fileURLToPath(new URL(`./programs/${program}`, import.meta.url));
    const env = { ...process.env, ...options.env };
    const [command = process.execPath, ...args] = [
      ...(options.prefix ?? []),
      process.execPath,
      path,
      ...(options.args ?? []),
    ];
    return new Child(spawn(command, args, { env, stdio: "pipe" }));
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** What the child has written to standard error so far. */
  get stderr(): string {
    return this.#stderr;
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Writes one line of JSON to the child's standard input. */
  send(message: ChildMessage): void {
    this.#process.stdin?.write(`${JSON.stringify(message)}\n`);
  }

  /**
   * Resolves with the first message, past or future, that `matches`.
   *
   * @throws Error when the child ends without one, with what it wrote to standard error, or at the deadline (milliseconds,
   * default 10 000).
   */
  async message(
    matches: (message: ChildMessage) => boolean,
    options: { deadline?: number } = {},
  ): Promise<ChildMessage> {
    const what = `a message with ${matches}`;
    return await until(
      () => {
        const found = this.messages.find(matches);
        if (!found && this.#exit) {
          throw new Error(`the child ended (${JSON.stringify(this.#exit)}) before ${what}:\n${this.#stderr}`);
        }
        return found;
      },
      { deadline: 10_000, ...options, what },
    );
  }

  /** Kills the child, even if it is stopped, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.exited;
  }
}
