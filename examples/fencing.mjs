// A late write that is refused. A worker takes a lock, is paused in mid-work for longer than its TTL, and writes when it goes on;
// meanwhile another has taken over. No lock can keep that write from going out: the table does, by the fencing token.
//
// Run once, it starts the two workers itself, pauses the first with SIGSTOP, and tells what happens.
import { fork } from "node:child_process";
import { on, once } from "node:events";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "report", TTL = "1s" } = process.env;

if (process.send) await work();
else await main();

/**
 * The write that checks the token, in one statement: of two that come at the same time the later one sees what the earlier one
 * stored. Yours has the column beside what the lock protects, and the same condition. Whether it was accepted.
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

/** A worker: takes the lock, and writes when it is told to, which is when its work is done. */
async function work() {
  const name = process.argv[2];
  process.once("disconnect", () => process.exit()); // Whoever started it has gone.
  const pool = new pg.Pool({ connectionString: DATABASE_URL });
  // Without `ttlEnforcement: "server"` the lock of a paused process would be nobody else's until it goes on, or ends.
  const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
  const lock = await locker.acquire(KEY, { ttl: TTL, autoRefresh: true, fencing: true, wait: true });
  const told = once(process, "message");
  lock.assertHeld(); // Right before the write, as it should be: and yet the pause comes after it.
  process.send({ has: lock.fencingToken });
  await told;
  process.send({ wrote: await write(pool, { token: lock.fencingToken, by: name }), held: lock.held });
  await lock.release().catch(() => {}); // The lock of the one that was paused has ended.
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
    for (const worker of workers) worker.process.kill("SIGKILL"); // A stopped process ends by nothing less.
    await pool.end();
  }
}

/** One that says things, in order. Rejects when it ends before it has said the next one. */
function start(name, workers) {
  // "advanced": with tokens, which JSON can't carry.
  const child = fork(fileURLToPath(import.meta.url), [name], { serialization: "advanced" });
  const ended = new AbortController();
  const said = on(child, "message", { signal: ended.signal });
  const exited = once(child, "exit").then(() => ended.abort(new Error(`${name} has ended`)));
  const worker = { process: child, exited, next: async () => (await said.next()).value[0] };
  workers.push(worker);
  return worker;
}
