// Takes the lock of an id as a service with the Go package does. `with-lock` waits in the server, in a transaction, as its WithLock does.
// `acquire` tries, and tries again after a growing pause, as its polling adapter does around Acquire. Under the lock it writes its name
// down (ENTER and LEAVE, of test/support/turns.ts), and works for the given milliseconds. It takes the given number of turns, or goes on
// for ever.
//
// Says { refused } at the first try that is refused, { turn } under the lock, { released } after it. A line of its standard input
// is the cancellation of the context: WithLock's transaction is rolled back, whatever its function does; a Release after it
// leaves the lock on its connection, which goes back to the pool.
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

const { DATABASE_URL, ENTER: enter, LEAVE: leave } = process.env;
const [how, id, name, work, turns = "Infinity"] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message));
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 3 });
const context = new AbortController();
const lines = createInterface({ input: process.stdin });
lines.on("line", () => context.abort());

async function underLock(turn) {
  await pool.query(enter, [id, name]);
  say({ turn });
  await delay(Number(work), undefined, { signal: context.signal }).catch(() => {});
}

async function withLock(turn) {
  const connection = await pool.connect();
  await connection.query("begin");
  await connection.query("select pg_advisory_xact_lock($1)", [id]);
  await underLock(turn);
  if (context.signal.aborted) {
    await connection.query("rollback");
    say({ released: true }); // While its function still runs.
    await new Promise(() => {});
  }
  await pool.query(leave, [id]);
  await connection.query("commit");
  connection.release();
}

async function acquire(turn) {
  for (let pause = 100; ; pause = Math.min(pause * 2, 1_000)) {
    const connection = await pool.connect();
    const { rows } = await connection.query("select pg_try_advisory_lock($1) as granted", [id]);
    if (rows[0].granted) {
      await underLock(turn);
      await pool.query(leave, [id]);
      // A cancelled context ends the statement before it is sent.
      if (!context.signal.aborted) await connection.query("select pg_advisory_unlock($1)", [id]);
      connection.release();
      return;
    }
    connection.release();
    say({ refused: true });
    await delay(pause / 2 + (Math.random() * pause) / 2);
  }
}

const take = how === "with-lock" ? withLock : acquire;
for (let turn = 1; turn <= Number(turns); turn += 1) {
  await take(turn);
  say({ released: true });
  if (context.signal.aborted) await new Promise((resolve) => lines.once("close", resolve));
}
lines.close();
await pool.end();
