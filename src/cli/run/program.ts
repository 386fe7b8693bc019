import { isUtf8 } from "node:buffer";
import { existsSync } from "node:fs";
import { usageFailure } from "../failure.ts";

/** By which systemd says to which process it gives its sockets, and from which it wants to hear that it lives. */
const processVariables = ["LISTEN_PID", "WATCHDOG_PID"];

/** What is started for a command: itself, or a shell that becomes it. */
export interface Program {
  readonly file: string;
  readonly args: readonly string[];
}

/**
 * What to start so that the command gets its words byte by byte. Node.js gives UTF-8 alone; for other bytes there is a shell in
 * between, which becomes the command. The same goes for what systemd gives to a process by its number, such as sockets: it has to be
 * the command's, which nobody but itself knows before it is there.
 *
 * @param words the command and its arguments
 * @throws {Failure} if a shell is needed, and none is there that would keep the whole environment
 */
export function programOf(words: readonly Buffer[]): Program {
  const forItself = processVariables.filter((name) => process.env[name] === String(process.pid));
  const [file = "", ...args] = words.map(String);
  if (forItself.length === 0 && words.every((word) => isUtf8(word))) return { file, args };
  const begin = forItself.map((name) => `${name}=$$; export ${name}; `).join("");
  const exec = words.map((_, index) => `"$w${index}"`).join(" ");
  return {
    file: shell(),
    args: ["-c", `${begin}${words.map(assignment).join("")}exec ${exec}`],
  };
}

/** What a shell cuts off at the end of an output are line ends: hence the dot, which is cut off in their place. */
function assignment(word: Buffer, index: number): string {
  const octal = [...word].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
  return `w${index}=$(printf '${octal}.'); w${index}=\${w${index}%.}; `;
}

function shell(): string {
  // Some shells, dash among them, drop variables whose names are none of theirs; bash doesn't.
  const odd = Object.keys(process.env).find((name) => !/^[A-Za-z_]\w*$/.test(name));
  if (odd === undefined) return "/bin/sh";
  const bash = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].find((file) => existsSync(file));
  if (bash !== undefined) return bash;
  throw usageFailure(
    `An argument of the command is not UTF-8, or systemd has given it sockets: that takes a shell, and /bin/sh may drop the variable ${odd}`,
  );
}
