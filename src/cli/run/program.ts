import { isUtf8 } from "node:buffer";
import { existsSync } from "node:fs";
import { usageFailure } from "../failure.ts";

/** The variables in which systemd names the process that gets its sockets, and the one that has to send it signs of life. */
const processVariables = ["LISTEN_PID", "WATCHDOG_PID"];

/** What is started for a command: the command itself, or a shell that becomes it. */
export interface Program {
  readonly file: string;
  readonly args: readonly string[];
}

/**
 * What to start so that the command gets its arguments byte by byte. Node.js can only pass on UTF-8; for other bytes, it starts a shell
 * that becomes the command. A shell is also needed for variables in which systemd names a process by its pid: they must have the command's
 * pid, which only the command's own process knows before it runs.
 *
 * @param words the command and its arguments
 * @throws {Failure} a shell is needed, but none is there that would keep the whole environment
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

/** The shell code that sets a variable to a word. A shell cuts line ends off an output, so a dot is added, and then removed. */
function assignment(word: Buffer, index: number): string {
  const octal = [...word].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
  return `w${index}=$(printf '${octal}.'); w${index}=\${w${index}%.}; `;
}

function shell(): string {
  // Some shells, such as dash, drop variables whose names they couldn't use themselves; bash doesn't.
  const odd = Object.keys(process.env).find((name) => !/^[A-Za-z_]\w*$/.test(name));
  if (odd === undefined) return "/bin/sh";
  const bash = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].find((file) => existsSync(file));
  if (bash !== undefined) return bash;
  throw usageFailure(
    `An argument of the command is not UTF-8, or systemd has given it sockets: that takes a shell, and /bin/sh may drop the variable ${odd}`,
  );
}
