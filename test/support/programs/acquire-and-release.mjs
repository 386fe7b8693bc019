// Acquires the lock of KEY, releases it, and ends.
import { PostgresLocker } from "../../../dist/index.js";

const locker = new PostgresLocker({ connectionString: process.env.DATABASE_URL });
await (await locker.acquire(process.env.KEY)).release();
await locker.close();
