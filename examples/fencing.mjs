// A late write that is refused. A worker takes a lock, is paused in mid-work for longer than its TTL, and writes when it goes on, after
// another worker has taken over. No lock can keep the write from being sent, but the table refuses it by its fencing token.
//
// Run this once: it starts the two workers itself, pauses the first with SIGSTOP, and prints what happens.
import { fork } from "node:child_process";
import { on, once } from "node:events";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "report", TTL = "1s" } = process.env;

if (process.send) await work();
else await main();

/**
 * Writes and checks the token in one statement: of two writes at the same time, the later one sees the token of the earlier one. In your
 * table, add the column to the rows that the lock protects, and use the same condition. Returns whether the write was accepted.
 */
async function write(pool, { token, by }) {
  const { rowCount } = await pool.query(
    `insert into fenced_writes (key, token, written_by) values ($1, $2, $3)
       on conflict (key) do update set token = excluded.token, written_by = excluded.written_by
       where fenced_writes.token <= excluded.token`,
    [KEY, token, by],
  );
  return rowCount === 1;
}

/** A worker: takes the lock, and writes when it is told to, as if its work were done then. */
async function work() {
  const name = process.argv[2];
  process.once("disconnect", () => process.exit()); // The process that started it has ended.
  const pool = new pg.Pool({ connectionString: DATABASE_URL });
  // Without `ttlEnforcement: "server"`, nobody else could get the lock of a paused process until it goes on or ends.
  const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
  const lock = await locker.acquire(KEY, { ttl: TTL, autoRefresh: true, fencing: true, wait: true });
  const told = once(process, "message");
  lock.assertHeld(); // Right before the write, as it should be; but the pause comes after it.
  process.send({ has: lock.fencingToken });
  await told;
  process.send({ wrote: await write(pool, { token: lock.fencingToken, by: name }), held: lock.held });
  await lock.release().catch(() => {}); // The lock of the paused worker has ended.
  await locker.close();
  await pool.end();
  process.disconnect();
}

async function main() {
  const pool = new pg.Pool({ connectionString: DATABASE_URL });
  await pool.query(
    "create table if not exists fenced_writes (key text primary key, token bigint not null, written_by text not null)",
  );
  const workers = [];
  try {
    const first = start("the first worker", workers);
    const { has: firstToken } = await first.next();
    console.log(
      `the first worker has the lock of "${KEY}", with the token ${firstToken}, and is about to write`,
    );
    first.process.kill("SIGSTOP");
    console.log(`the first worker is paused (SIGSTOP), for longer than its TTL of ${TTL}`);

    const second = start("the second worker", workers);
    const { has: secondToken } = await second.next();
    console.log(`the server has freed the lock: the second worker has it, with the token ${secondToken}`);
    second.process.send("write");
    const { wrote: secondWrote } = await second.next();
    console.log(`the second worker's write is ${secondWrote ? "accepted" : "refused"}`);

    first.process.send("write"); // It can't stop what it had decided on before the pause.
    first.process.kill("SIGCONT");
    console.log("the first worker goes on (SIGCONT), and writes");
    const { wrote: firstWrote, held } = await first.next();
    console.log(
      `the first worker's late write is ${firstWrote ? "accepted" : "refused"}; it ${held ? "still believes" : "knows now"} that it ${held ? "holds" : "no longer holds"}`,
    );

    const { rows } = await pool.query("select token::text, written_by from fenced_writes where key = $1", [
      KEY,
    ]);
    console.log(`the table has what ${rows[0].written_by} wrote, with the token ${rows[0].token}`);
    const asPromised = secondToken > firstToken && secondWrote && !firstWrote && !held;
    if (!asPromised) process.exitCode = 1;
    await Promise.all(workers.map((worker) => worker.exited));
  } finally {
    for (const worker of workers) worker.process.kill("SIGKILL"); // Only SIGKILL ends a stopped process.
    await pool.end();
  }
}

/** Starts a worker whose messages can be awaited in order. Waiting rejects if the worker ends first. */
function start(name, workers) {
  // "advanced" serialization, because tokens are bigints, which JSON can't represent.
  const child = fork(fileURLToPath(import.meta.url), [name], { serialization: "advanced" });
  const ended = new AbortController();
  const said = on(child, "message", { signal: ended.signal });
  const exited = once(child, "exit").then(() => ended.abort(new Error(`${name} has ended`)));
  const worker = { process: child, exited, next: async () => (await said.next()).value[0] };
  workers.push(worker);
  return worker;
}
