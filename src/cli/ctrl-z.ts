/** Milliseconds until a process that was not stopped after all finds out. */
const afterStop = 50;

/** Ignores a second Ctrl-Z while the first one is being handled. */
const ignored = (): void => {};

/**
 * Has Ctrl-Z stop this process, with something to be done before and after that.
 *
 * @param to.stop is awaited before the process stops, because then the shell takes the terminal back. It never rejects
 * @param to.goOn is called when the process is continued; or at once, if there is no shell that could continue it
 */
export function onCtrlZ(to: { stop: () => unknown; goOn: () => void }): Disposable {
  let stopped: NodeJS.Timeout | undefined;
  const suspend = async (): Promise<void> => {
    // In this order, because without any listener a second Ctrl-Z would stop this process before `stop` has run.
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
