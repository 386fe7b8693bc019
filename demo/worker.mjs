// One of the processes that compete for the key: worker.mjs <number> <directory> <key>, on the database of DATABASE_URL
import { openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { LockNotHeldError, PostgresLocker } from "../dist/index.js";

const [number, directory, key] = process.argv.slice(2);
const worker = Number(number);
const { pid } = process;
const counterFile = join(directory, "counter");
const inUseFile = join(directory, "in-use-by");
const journal = openSync(join(directory, `journal-${worker}-${pid}.jsonl`), "a");

// Writes synchronously, so that the kernel has the line before the next step and a SIGKILL can't lose it.
function note(what, facts = {}) {
  const at = Number(process.hrtime.bigint()) / 1e6;
  writeSync(journal, `${JSON.stringify({ at, worker, pid, what, ...facts })}\n`);
}

// The demo tells it in a line, instead of a stack from here.
process.on("uncaughtException", ({ message }) => process.send?.({ failed: message }, () => process.exit(1)));

let stopping = false;
process.on("message", () => {
  stopping = true;
});
// The demo has ended in some way.
process.on("disconnect", () => process.exit(0));

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 1 });
const locker = new PostgresLocker({ pool });

while (!stopping) {
  const lock = await locker.tryAcquire(key, { ttl: "5s" });
  if (lock === undefined) {
    await delay(5 + Math.random() * 20);
    continue;
  }
  note("acquired");
  process.send?.("acquired");
  try {
    await work(lock);
    note("releasing");
    await lock.release();
  } catch (error) {
    if (!(error instanceof LockNotHeldError)) throw error;
    note("lost");
  }
  await delay(30 + Math.random() * 60);
}
await locker.close();
await pool.end();
process.disconnect();

/** Adds one to the counter in the shared file, slowly, so that a second process at the same time would lose one of the additions. */
async function work(lock) {
  writeFileSync(inUseFile, String(pid));
  const counter = Number(readFileSync(counterFile, "utf8"));
  note("read", { counter });
  const steps = 4 + Math.floor(Math.random() * 4);
  for (let step = 0; step < steps; step += 1) {
    await delay(30);
    lock.assertHeld();
    note("working");
    if (step === 1) await lock.refresh();
  }
  const user = readFileSync(inUseFile, "utf8");
  if (user !== String(pid)) {
    note("corrupted", { complaint: `worker ${worker} (pid ${pid}) found the file in use by pid ${user}` });
  }
  lock.assertHeld();
  writeFileSync(`${counterFile}.${pid}`, String(counter + 1));
  renameSync(`${counterFile}.${pid}`, counterFile);
  note("wrote", { counter: counter + 1 });
}
