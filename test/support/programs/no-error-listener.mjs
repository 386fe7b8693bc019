// Connects without an "error" listener, and waits for the end of its session. With the argument `pool`, the client is checked out of a pool
// that does have a listener.
import pg from "pg";

const connectionString = process.env.DATABASE_URL;
let client;
if (process.argv[2] === "pool") {
  const pool = new pg.Pool({ connectionString });
  pool.on("error", () => {});
  client = await pool.connect();
} else {
  client = new pg.Client({ connectionString });
  await client.connect();
}
console.log(JSON.stringify({ pid: client.processID }));
setInterval(() => {}, 1000);
