// Stands for election with the key of its first argument and the options of its second (JSON), on a locker with the defaults, which doesn't
// have the server enforce TTLs. Says { elected } when it leads, and { ended: the code of the reason } when it must stop. A line of its
// standard input ends the election, and the program.
import { PostgresLocker } from "../../../dist/index.js";
import { reach } from "./driver.mjs";

const [key, options = "{}"] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message));
const { way, end } = await reach();
const locker = new PostgresLocker({ ...way, sessions: process.env.SESSIONS });
const stop = new AbortController();
process.stdin.once("data", () => stop.abort());
await locker.elect(key, {
  ...JSON.parse(options),
  signal: stop.signal,
  onElected: async (lock, { signal }) => {
    say({ elected: lock.id.toString() });
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    if (!stop.signal.aborted) say({ ended: signal.reason.code, held: lock.held });
  },
});
await locker.close();
await end();
process.stdin.destroy();
