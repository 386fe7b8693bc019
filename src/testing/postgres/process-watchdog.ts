import { type ChildProcess, spawn } from "node:child_process";

// `read` ends when the last write end of its standard input is closed, which the kernel does however our process ends. The
// process to end is looked up at that moment, in the file that names it: a pid remembered from earlier may be somebody else's.
const SCRIPT = `
while read -r line; do :; done
file="$1/data/postmaster.pid"
if read -r pid < "$file"; then
  kill -QUIT "$pid" && kill -CONT "$pid"
  tries=0
  while [ -e "$file" ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.05; done
  [ -e "$file" ] && kill -KILL "$pid"
fi
rm -rf -- "$1"
`;

/** Ends the watch, without cleaning up. */
export type StopWatching = () => void;

/**
 * Stops the PostgreSQL server with its data in `<directory>/data`, if there is one, and removes `directory` when this process
 * ends in any way, a SIGKILL included.
 *
 * An exit hook would need handlers for SIGINT and SIGTERM that change what the process does with them, and would miss a
 * SIGKILL. A shell that waits for a pipe to close needs neither. It is left behind only by what ends both at once, such as the
 * machine's own end.
 */
export function cleanUpAfterProcess(directory: string): StopWatching {
  const watchdog: ChildProcess = spawn("/bin/sh", ["-c", SCRIPT, "pg-locker-watchdog", directory], {
    cwd: "/",
    // A session of its own: Ctrl-C in a terminal goes to every process of the foreground group.
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  watchdog.unref();
  const { stdin } = watchdog;
  // A pipe of child_process is a socket, which keeps the event loop alive unless told otherwise.
  if (stdin && "unref" in stdin && typeof stdin.unref === "function") stdin.unref();
  stdin?.on("error", () => {});
  watchdog.on("error", () => {});
  return () => {
    watchdog.kill("SIGKILL");
  };
}
