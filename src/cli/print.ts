import { codeOf } from "../contract/caught-error.ts";
import { plainJson } from "../contract/plain-text.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure } from "./failure.ts";
import { shown } from "./plain.ts";

/**
 * Writes lines for people to standard output. Nothing in them can move the cursor: see {@link shown}.
 *
 * @throws {Failure} see {@link write}
 */
export async function print(text: string): Promise<void> {
  await write(shown(text));
}

/**
 * Writes a value as JSON to standard output, for programs and for people. Nothing in it can move the cursor: see {@link plainJson}.
 *
 * @throws {Failure} see {@link write}
 */
export async function printJson(value: unknown): Promise<void> {
  await write(plainJson(JSON.stringify(value, undefined, 2)));
}

/**
 * Writes lines to standard output. If the reader has gone (such as `head`), that is no error, because what a command does must not depend
 * on who reads its output.
 *
 * @throws {Failure} the lines could not be written, as on a full disk; `console.log` would say nothing
 */
async function write(text: string): Promise<void> {
  const { stdout } = process;
  try {
    await new Promise<void>((resolve, reject) => {
      // The stream emits the error too, and an error without a listener ends the process.
      stdout.once("error", reject);
      stdout.write(`${text}\n`, (error) => {
        if (error) return reject(error);
        stdout.removeListener("error", reject);
        resolve();
      });
    });
  } catch (error) {
    const code = codeOf(error) ?? "";
    if (code === "EPIPE") return;
    throw new Failure(exitStatus.failed, `Standard output can't be written to (${code})`, { cause: error });
  }
}
