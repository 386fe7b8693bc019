/** Milliseconds until a process that was not stopped after all knows. */
const afterStop = 50;

/** For a second Ctrl-Z while the first is being seen to. */
const ignored = (): void => {};

/**
 * Has Ctrl-Z stop this process, with something to be done before and after.
 *
 * @param to.stop is waited for: until then, the shell has not got the terminal back. It never rejects
 * @param to.goOn follows when the process is continued; or at once, if there is no shell that could
 */
export function onCtrlZ(to: { stop: () => unknown; goOn: () => void }): Disposable {
  let stopped: NodeJS.Timeout | undefined;
  const suspend = async (): Promise<void> => {
    // In this order: without a listener for a moment, a second one would stop this process before what is to be done.
    process.on("SIGTSTP", ignored);
    process.removeListener("SIGTSTP", suspend);
    await to.stop();
    process.removeListener("SIGTSTP", ignored);
    process.kill(process.pid, "SIGTSTP");
    stopped = setTimeout(() => {
      process.on("SIGTSTP", suspend);
      to.goOn();
    }, afterStop);
  };
  process.on("SIGTSTP", suspend);
  return {
    [Symbol.dispose]: () => {
      clearTimeout(stopped);
      process.removeListener("SIGTSTP", suspend);
    },
  };
}
