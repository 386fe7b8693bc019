/** An option of a command, under its long name. */
export interface Option {
  /** Whether it has a value. An `"optional"` one is given as `--name=value` only. */
  readonly value: "none" | "required" | "optional";
  /** One letter, for `-x`. */
  readonly short?: string;
}

export type Options = Readonly<Record<string, Option>>;

/** What the options of a command line came to: absent, `true`, or the text that was given. */
export type Values = Readonly<Record<string, string | boolean | undefined>>;

/** The command line of one command, read. */
export interface CommandLine {
  readonly values: Values;
  /** What is neither an option nor behind `--`. */
  readonly positionals: readonly string[];
  /** What is behind the first `--`; `undefined` where there is none. */
  readonly rest: readonly string[] | undefined;
}

/** One command of `pg-locker`. */
export interface Command {
  readonly name: string;
  /** How it is called, after the name: `KEY [options]`. */
  readonly synopsis: string;
  /** A line of `pg-locker --help`. */
  readonly summary: string;
  /** What its own `--help` says below the synopsis: what it does, its options, one example. With it, at most 23 lines of 80 columns. */
  readonly help: string;
  /** Beside {@link commonOptions}. Only these can be given. */
  readonly options: Options;
  /** How many keys it takes. */
  readonly keys: 0 | 1;
  /** Where it takes no key: the words of which it takes one. */
  readonly actions?: readonly string[];
  /** Whether something may come behind `--`. */
  readonly takesRest?: boolean;
  /**
   * Does it, and answers the exit status.
   *
   * @throws {Failure} with a sentence for a person; and whatever the library throws
   */
  run(given: CommandLine): Promise<number>;
}

/** What every command takes. */
export const commonOptions = {
  help: { value: "none", short: "h" },
  verbose: { value: "none" },
} as const satisfies Options;

/** What a command takes that speaks to a database, see `connect`. */
export const databaseOptions = {
  url: { value: "required" },
  local: { value: "none" },
} as const satisfies Options;

/** What a command takes that names a lock by its key. */
export const keyOptions = {
  /** The key itself, where it begins with a dash. */
  key: { value: "required" },
  namespace: { value: "required" },
} as const satisfies Options;
