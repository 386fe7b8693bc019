/** An option of a command, under its long name. */
export interface Option {
  /** Whether it has a value. An `"optional"` value can only be given as `--name=value`. */
  readonly value: "none" | "required" | "optional";
  /** One letter: `x` for `-x`. */
  readonly short?: string;
}

export type Options = Readonly<Record<string, Option>>;

/** The options of a command line: each is absent, `true`, or the text that was given. */
export type Values = Readonly<Record<string, string | boolean | undefined>>;

/** The parsed command line of one command. */
export interface CommandLine {
  readonly values: Values;
  /** The words that are not options, up to `--`. */
  readonly positionals: readonly string[];
  /** The words after the first `--`; `undefined` if there is no `--`. */
  readonly rest: readonly string[] | undefined;
}

/** One command of `pg-locker`. */
export interface Command {
  readonly name: string;
  /** How it is called, after its name: `KEY [options]`. */
  readonly synopsis: string;
  /** Its line in `pg-locker --help`. */
  readonly summary: string;
  /** The text of its own `--help` below the synopsis: what it does, its options, one example. In all, at most 23 lines of 80 columns. */
  readonly help: string;
  /** The options that it takes besides {@link commonOptions}. */
  readonly options: Options;
  /** How many keys it takes. */
  readonly keys: 0 | 1;
  /** For a command without a key: the words, one of which it takes. */
  readonly actions?: readonly string[];
  /** Whether something may follow `--`. */
  readonly takesRest?: boolean;
  /**
   * Runs the command, and returns the exit status.
   *
   * @throws {Failure} with a sentence for the user; also whatever the library throws
   */
  run(given: CommandLine): Promise<number>;
}

/** The options of every command. */
export const commonOptions = {
  help: { value: "none", short: "h" },
  verbose: { value: "none" },
} as const satisfies Options;

/** The options of a command that connects to a database, see `connect`. */
export const databaseOptions = {
  url: { value: "required" },
  local: { value: "none" },
} as const satisfies Options;

/** The options of a command that names a lock by its key. */
export const keyOptions = {
  /** The key itself, if it begins with a dash. */
  key: { value: "required" },
  namespace: { value: "required" },
} as const satisfies Options;
