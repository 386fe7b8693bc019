// Writes one row in a transaction under the lock of its argument, stops itself when the commit has been sent, and, when it is continued,
// says what became of the commit.
import { Socket } from "node:net";
import { PostgresLocker } from "../../../dist/index.js";
import { reach } from "./driver.mjs";

const tell = (message) => console.log(JSON.stringify(message));
const { way, end } = await reach({ max: 1 });
const locker = new PostgresLocker(way);
try {
  await locker.withTransaction(process.argv[2], async (client) => {
    await client.query("insert into written values ('by another process')");
    const { write } = Socket.prototype;
    Socket.prototype.write = function (...data) {
      const sent = write.apply(this, data);
      if (!String(data[0]).includes("commit")) return sent;
      Socket.prototype.write = write;
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
await end();
