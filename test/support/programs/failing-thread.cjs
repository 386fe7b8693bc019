// Loaded by `node --require` before any other code, also in each thread. A thread of Node.js fails as the variable FAIL says, once it has
// got its first message, in which the runner of `pg-locker run` tells its thread what to start.
const { isMainThread, parentPort } = require("node:worker_threads");

const ways = {
  "throws at once": () => {
    throw new Error("failed on purpose");
  },
  // The thread blocks before these are due, until the command has ended.
  "throws after the command": () => setImmediate(ways["throws at once"]),
  "exits after the command": () => setImmediate(() => process.exit(0)),
  "hangs after the command": () =>
    setImmediate(() => {
      for (;;);
    }),
  "exits before the command": () => process.exit(0),
  // It notes the pid of the command just before it tells, with `Atomics.store`, that it has started it.
  "hangs before it tells of the command": () => {
    Atomics.store = () => {
      for (;;);
    };
  },
};

if (!isMainThread) parentPort?.once("message", ways[process.env.FAIL]);
