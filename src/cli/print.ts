import { codeOf } from "../contract/caught-error.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure } from "./failure.ts";

/**
 * Writes lines to standard output. A reader that has gone, such as `head`, has had enough: the command goes on, as what it does
 * must not depend on who looks.
 *
 * @throws {Failure} they could not be written: a full disk, which `console.log` is silent about
 */
export async function print(text: string): Promise<void> {
  const { stdout } = process;
  try {
    await new Promise<void>((resolve, reject) => {
      // It is told twice of an error, and one without a listener ends the process.
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
