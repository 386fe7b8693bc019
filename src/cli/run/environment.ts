import { ChildProcess, type SpawnOptions } from "node:child_process";

/** Node.js has this in the place of bytes that are not UTF-8. */
const replacement = "\ufffd";

/** Whether a variable, or its name, is one of which Node.js can't say the bytes. */
export function isRawEnvironment(): boolean {
  return Object.entries(process.env).some((each) => each.join("=").includes(replacement));
}

/** Of a class of Node.js, what its types don't say. */
export interface RawChild extends ChildProcess {
  spawn(options: object): number;
}

/**
 * Starts a program with the very environment of this process, byte by byte, variables set since then among it. `spawn` says it
 * word by word in UTF-8; what is no plain array is left to the system.
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
