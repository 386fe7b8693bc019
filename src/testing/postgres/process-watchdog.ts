import { type ChildProcess, spawn } from "node:child_process";

// `read` ends when the last write end of its standard input is closed, which the kernel does however our process ends. The server's pid
// is read from its file at that moment, because a pid remembered from earlier may belong to another process by now.
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

/** Stops watching, without cleaning up. */
export type StopWatching = () => void;

/**
 * When this process ends in any way, even by SIGKILL, stops the PostgreSQL server whose data is in `<directory>/data`, if there is one,
 * and removes `directory`.
 *
 * An exit hook would need handlers for SIGINT and SIGTERM, which change how the process reacts to them, and would miss a SIGKILL. A shell
 * that waits for a pipe to close has neither problem. The directory is left behind only if both processes end at once, as when the
 * machine goes down.
 */
export function cleanUpAfterProcess(directory: string): StopWatching {
  const watchdog: ChildProcess = spawn("/bin/sh", ["-c", SCRIPT, "pg-locker-watchdog", directory], {
    cwd: "/",
    // In its own session, because Ctrl-C in a terminal goes to every process of the foreground group.
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  watchdog.unref();
  const { stdin } = watchdog;
  // A pipe of child_process is a socket, which keeps the event loop alive until it is unref'd.
  if (stdin && "unref" in stdin && typeof stdin.unref === "function") stdin.unref();
  stdin?.on("error", () => {});
  watchdog.on("error", () => {});
  return () => {
    watchdog.kill("SIGKILL");
  };
}
