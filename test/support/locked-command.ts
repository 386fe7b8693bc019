import { lockId } from "../../src/index.ts";
import { CliChild, type CliOptions } from "./cli.ts";
import { databaseUrl, holdersOf, uniqueKey } from "./database.ts";
import { lives, tag } from "./tagged-processes.ts";
import { until } from "./until.ts";

/** The environment of a `pg-locker` of this test, with this file's database. */
export function onDatabase(env: CliOptions["env"] = {}): { env: NonNullable<CliOptions["env"]> } {
  return { env: { DATABASE_URL: databaseUrl(), ...tag(), ...env } };
}

/** A `pg-locker run` with a shell script that has begun. */
export interface Locked extends AsyncDisposable {
  readonly key: string;
  readonly cli: CliChild;
  /** The command's pid, which is also the number of its group. */
  readonly pid: number;
  readonly runner: number;
  /** Whether the command lives. */
  readonly lives: boolean;
  /** Whether the server still has its lock. */
  isLocked(): Promise<boolean>;
}

/** Runs a shell script under a lock of its own, and waits until it has begun and, if it begins with a trap, has set it. */
export async function runLocked(
  script: string,
  options: { args?: readonly string[]; env?: CliOptions["env"]; key?: string } = {},
): Promise<Locked> {
  const { args = [], env, key = uniqueKey() } = options;
  const [, trap = "", rest = ""] = /^(trap '[^']*' \w+; )?(.*)$/s.exec(script) ?? [];
  const begun = `${trap}echo "begun $$ $PPID"; ${rest}`;
  const cli = CliChild.start(["run", key, ...args, "--", "sh", "-c", begun], onDatabase(env));
  try {
    const [, pid, runner] = await until(
      () => {
        const line = /begun (\d+) (\d+)\n/.exec(cli.stdout);
        if (line === null && cli.process.exitCode !== null) throw new Error(`not begun: ${cli.stderr}`);
        return line;
      },
      { deadline: 15_000, what: "the command's begin" },
    );
    return {
      key,
      cli,
      pid: Number(pid),
      runner: Number(runner),
      get lives() {
        return lives(Number(pid));
      },
      isLocked: async () => (await holdersOf(lockId(0, key))).length > 0,
      [Symbol.asyncDispose]: () => cli[Symbol.asyncDispose](),
    };
  } catch (error) {
    await cli[Symbol.asyncDispose]();
    throw error;
  }
}

/** A shell script that does nothing until it is ended. The processes that it starts end by themselves within moments. */
export const idle = "while :; do sleep 0.1; done";
