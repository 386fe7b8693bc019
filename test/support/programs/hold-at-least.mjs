// Takes the lock of its first argument for at least as long as its second one says, releases it at once, says so, and does nothing more. At
// its end it says how long after the grant that is.
import { PostgresLocker } from "../../../dist/index.js";

const say = (message) => console.log(JSON.stringify(message));
const [key, holdAtLeast] = process.argv.slice(2);
const { DATABASE_URL: connectionString, SESSIONS: sessions } = process.env;
const locker = new PostgresLocker({ connectionString, sessions });
const lock = await locker.acquire(key, { holdAtLeast });
const start = performance.now();
await lock.release();
say({ released: true });
process.once("exit", () => say({ after: performance.now() - start }));
