import { ChildProcess, type SpawnOptions } from "node:child_process";

/** The character that Node.js puts in the place of bytes that are not UTF-8. */
const replacement = "\ufffd";

/** Whether a text may have been bytes that Node.js can't represent. */
export function isRawText(text: string): boolean {
  return text.includes(replacement);
}

/** Whether the name or the value of a variable has bytes that Node.js can't represent. */
export function isRawEnvironment(): boolean {
  return Object.entries(process.env).some((each) => isRawText(each.join("=")));
}

/** Sets variables of this process; `undefined` removes one. */
export function setVariables(variables: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}

/** The part of `ChildProcess` that its types don't declare. */
export interface RawChild extends ChildProcess {
  spawn(options: object): number;
}

/**
 * Starts a program with this process's environment byte by byte, including variables that were set since the start. `spawn` would encode
 * each variable as UTF-8; given something that isn't a plain array, libuv passes on the environment as it is.
 */
export function spawnRaw(
  file: string,
  args: readonly string[],
  options: Pick<SpawnOptions, "stdio" | "detached">,
): ChildProcess {
  const child = new (ChildProcess as unknown as new () => RawChild)();
  child.spawn({ file, args: [file, ...args], envPairs: new Proxy([], {}), ...options });
  return child;
}
