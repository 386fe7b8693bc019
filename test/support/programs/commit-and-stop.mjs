// Writes one row in a transaction under the lock of its argument, stops itself when the commit has been sent, and tells what became
// of it when it is let go on.
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const tell = (message) => console.log(JSON.stringify(message));
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 1 });
const locker = new PostgresLocker({ pool });
try {
  await locker.withTransaction(process.argv[2], async (client) => {
    await client.query("insert into written values ('by another process')");
    const { stream } = client.connection;
    const send = stream.write;
    stream.write = (...data) => {
      stream.write = send;
      const sent = send.apply(stream, data);
      tell({ sent: true });
      process.kill(process.pid, "SIGSTOP");
      return sent;
    };
  });
  tell({ outcome: "committed" });
} catch (error) {
  tell({ outcome: error.message });
}
await locker.close();
await pool.end();
