// Subscribes to the diagnostics channels of locks, and throws in every subscriber. With the argument "handled" it counts what Node.js then
// reports as uncaught, and says that number and what became of its lock; without it, the first event ends the process.
import { subscribe } from "node:diagnostics_channel";
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const uncaught = [];
if (process.argv[2] === "handled") process.on("uncaughtException", ({ message }) => uncaught.push(message));
for (const event of ["acquired", "released"]) {
  subscribe(`pg-locker:${event}`, () => {
    throw new Error(`thrown at ${event}`);
  });
}
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const locker = new PostgresLocker({ pool });
const told = [];
locker.on("released", ({ key }) => told.push(key));
const value = await locker.withLock("subscriber", async (lock) => {
  await new Promise((resolve) => setTimeout(resolve, 50));
  return lock.held;
});
const next = await locker.tryAcquire("subscriber");
while (uncaught.length < 3) await new Promise((resolve) => setTimeout(resolve, 10));
console.log(JSON.stringify({ value, told, next: next?.held, uncaught }));
await locker.close();
await pool.end();
