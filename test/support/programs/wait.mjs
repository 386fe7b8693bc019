// Waits for the key of its first argument, with the locker's options of its second one and the acquire's of its third one (JSON). Says
// { acquired } when it has the lock, and keeps it until a line of its standard input. Then it says { released }, closes, and ends by
// itself.
import { once } from "node:events";
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const say = (message) => console.log(JSON.stringify(message));
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
pool.on("error", () => {});
const [key, options = "{}", acquireOptions = "{}"] = process.argv.slice(2);
const locker = new PostgresLocker({ pool, ...JSON.parse(options) });
say({ started: process.pid });
const lock = await locker.acquire(key, { wait: true, ...JSON.parse(acquireOptions) });
say({ acquired: true });
await once(process.stdin, "data");
await lock.release();
say({ released: true });
await locker.close();
await pool.end();
process.stdin.destroy();
