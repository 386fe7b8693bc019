import { parseArgs } from "node:util";
import { plain, quote, shortened } from "../contract/plain-text.ts";
import { type Command, type CommandLine, commonOptions, type Options } from "./command.ts";
import { usageFailure } from "./failure.ts";
import { spelling } from "./spelling.ts";

/** The options that say which lock is meant. */
const choosing: ReadonlySet<string> = new Set(["key", "namespace", "lock-ids", "url"]);

/**
 * Reads the command line of a command. If an option is given twice, the last one counts, unless that would choose another lock.
 *
 * @throws {Failure} an unknown option (the sentence names the nearest known one); an option without its value, or with one that it doesn't
 *   take; two different values for an option that says which lock is meant; a key or an action that is missing or superfluous
 */
export function readArguments(command: Command, args: readonly string[]): CommandLine {
  const options: Options = { ...commonOptions, ...command.options };
  const { own, rest } = divide(args, command);
  const values: Record<string, string | boolean> = {};
  const positionals: string[] = [];
  /** A word that was probably meant as the value of the option before it, which takes a value only after `=`. */
  let stray: { option: string; value: string } | undefined;
  let bare: string | undefined;
  const tokens = tokensOf(own, options);
  for (const token of tokens) {
    if (token.kind === "positional") {
      positionals.push(token.value);
      if (bare !== undefined) stray ??= { option: bare, value: token.value };
    }
    bare = undefined;
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const option = Object.hasOwn(options, name) ? options[name] : undefined;
    if (option === undefined) {
      // Most likely an option of the command that is to be run.
      if (lacksDashes(command, { rest, positionals })) break;
      throw usageFailure(unknownOption(rawName, { command, positionals }));
    }
    if (option.value === "none" && value !== undefined)
      throw usageFailure(`${rawName} takes no value, but got ${quote(value)}`);
    // After `--url`, a word that looks like an option is one: the value was forgotten. A key may look like anything.
    const isForgotten = value !== undefined && !inlineValue && name !== "key" && /^-[^\d]/.test(value);
    if (option.value === "required" && (value === undefined || isForgotten))
      throw usageFailure(`${rawName} needs a value`);
    if (choosing.has(name) && values[name] !== undefined && values[name] !== value)
      throw usageFailure(`${rawName} is given twice, with two values`);
    if (name === "key" && values[name] === undefined) positionals.unshift(String(value));
    values[name] = value ?? true;
    if (option.value === "optional" && value === undefined) bare = rawName;
  }
  if (stray !== undefined && positionals.length > command.keys)
    throw usageFailure(
      `Unexpected ${quote(stray.value)} after ${stray.option}: a value is given as ${stray.option}=${shellWord(stray.value)}`,
    );
  if (values["help"] === true) return { values, positionals, rest };
  const { key, ...others } = values;
  if (lacksDashes(command, { rest, positionals })) {
    const words = tokens.filter(({ kind }) => kind === "positional");
    const first = words[key === undefined ? command.keys : 0];
    throw usageFailure(missingDashes(positionals[0] ?? "", own.slice(first?.index)));
  }
  expectWords(command, positionals);
  return { values: others, positionals, rest };
}

/** Whether the command to run was given without the `--` that has to come before it. */
function lacksDashes(
  { keys, takesRest }: Command,
  { rest, positionals }: Pick<CommandLine, "rest" | "positionals">,
): boolean {
  return takesRest === true && rest === undefined && positionals.length > keys;
}

function missingDashes(key: string, command: readonly string[]): string {
  const shownKey = `${key.startsWith("-") ? "--key " : ""}${shellWord(key)}`;
  const shownCommand = command.map(shellWord).join(" ");
  return `Unexpected ${quote(command[0])}: put -- before the command, as in pg-locker run ${shownKey} -- ${shownCommand}`;
}

/** A word as it has to be written for a shell. */
function shellWord(word: string): string {
  // Too long to be read, and so to be typed.
  if (word.length > 100) return "...";
  if (/^[\w%+,./:=@-]+$/.test(word)) return word;
  if (plain(word) === word) return `'${word.replaceAll("'", "'\\''")}'`;
  // A shell's own form for a word with characters that can't be seen.
  return `$'${plain(word.replace(/[\\']/g, "\\$&"))}'`;
}

function tokensOf(args: string[], options: Options) {
  const config = Object.entries(options).map(([name, { value, short }]) => {
    const type = value === "required" ? "string" : "boolean";
    return [name, { type, ...(short !== undefined && { short }) }] as const;
  });
  return parseArgs({
    args,
    options: Object.fromEntries(config),
    strict: false,
    allowPositionals: true,
    tokens: true,
  }).tokens;
}

function divide(args: readonly string[], command: Command) {
  const at = args.indexOf("--");
  if (at === -1) return { own: [...args], rest: undefined };
  // For a command that runs nothing, what follows `--` is a key that may begin with a dash.
  if (command.takesRest !== true) return { own: [...args], rest: undefined };
  return { own: args.slice(0, at), rest: args.slice(at + 1) };
}

function expectWords(command: Command, positionals: readonly string[]): void {
  const { actions = [], name, synopsis } = command;
  const usage = `: pg-locker ${name} ${synopsis}`.trimEnd();
  const expected = actions.length > 0 ? 1 : command.keys;
  const what = actions.length > 0 ? actions.join(" or ") : "a key";
  if (positionals.length < expected) throw usageFailure(`Expected ${what}${usage}`);
  if (positionals.length > expected) throw usageFailure(`Unexpected ${quote(positionals[expected])}${usage}`);
  const [action = ""] = positionals;
  if (actions.length > 0 && !actions.includes(action))
    throw usageFailure(
      `Unknown ${quote(action)} of ${name}: ${didYouMean(action, actions) ?? `see pg-locker ${name} --help`}`,
    );
}

function unknownOption(
  given: string,
  { command, positionals }: { command: Command; positionals: readonly string[] },
): string {
  const { name, options, keys } = command;
  const known = Object.keys({ ...commonOptions, ...options }).map((each) => `--${each}`);
  const isKey = keys > positionals.length && !given.startsWith("--");
  const help = isKey ? `if it is the key, --key ${shellWord(given)}` : `see pg-locker ${name} --help`;
  return `Unknown option ${shortened(given)}: ${didYouMean(given, known) ?? help}`;
}

/** A question that suggests the known word nearest to `given`; `undefined` if less than half of `given` is in that word. */
export function didYouMean(given: string, known: readonly string[]): string | undefined {
  const { closest, distance } = spelling();
  const bare = (text: string): string => text.replace(/^-+/, "");
  const nearest = known.find((each) => bare(each) === closest(bare(given), known.map(bare)));
  if (nearest === undefined || distance(bare(nearest), bare(given)) > bare(given).length / 2)
    return undefined;
  return `did you mean ${nearest}?`;
}
