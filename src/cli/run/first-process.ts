import { accessSync, constants } from "node:fs";
import { inheritedDescriptors } from "./descriptors.ts";
import { isRawEnvironment, isRawText } from "./environment.ts";

/** Node.js has it from 22.15 and 23.11 on. It doesn't return. */
type Replace = (file: string, args: readonly string[], env: NodeJS.ProcessEnv) => void;

const shell = "/bin/sh";

// The shell passes each signal on, and has the status of its child. A terminal sends its signals to both by itself. Without job control, a
// shell would give its child an empty standard input. A signal interrupts `wait`, whose status is then that of the signal; if the child has
// ended as well, the next `wait` tells its own.
const script = `
exec 3<&0
"$0" "$@" <&3 3<&- &
exec 3<&-
child=$!
for signal in HUP TERM USR1 USR2 WINCH; do trap "kill -s $signal $child" "$signal"; done
for signal in INT QUIT; do
  if [ -t 0 ]; then trap '' "$signal"; else trap "kill -s $signal $child" "$signal"; fi
done
while :; do
  wait "$child"
  status=$?
  kill -0 "$child" 2>/dev/null || break
done
wait "$child" 2>/dev/null
last=$?
[ "$last" -eq 127 ] || status=$last
exit "$status"`;

/**
 * As the first process of a container, becomes a shell that runs this program as its child. The first process becomes the parent of every
 * orphan, and a shell reaps all its children; Node.js only reaps those that it has started.
 *
 * Returns if that can't be done, or if something would not reach the child as it is: an argument or a variable that isn't UTF-8, a
 * descriptor that was inherited. Also if a URL is among the arguments, which a shell would show to every user for as long as it runs.
 */
export function haveOrphansReaped(): void {
  const { execve } = process as { execve?: Replace };
  if (process.pid !== 1 || execve === undefined || !isExecutable(shell)) return;
  const [program = "", ...args] = process.argv.slice(1);
  if (args.some((each) => each.startsWith("--url"))) return;
  const { handed, free } = inheritedDescriptors();
  if (handed.length > 0 || free !== 3 || isRawEnvironment() || args.some(isRawText)) return;
  const own = [process.execPath, ...process.execArgv, program, ...args];
  execve.call(process, shell, [shell, "-c", script, ...own], process.env);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
