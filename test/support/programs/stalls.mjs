// Holds 500 locks with a TTL of ten minutes, and keeps acquiring and releasing others; then says { busy }. When it finds that it stood
// still for seconds, it stops that, says how many of the locks it still holds and what failed, and exits.
import { PostgresLocker } from "../../../dist/index.js";
import { reach } from "./driver.mjs";

const say = (message) => console.log(JSON.stringify(message));
const { way, end } = await reach();
const locker = new PostgresLocker({ ...way, ttlEnforcement: "server" });
const take = (key) => locker.acquire(`${key}:${process.pid}`, { ttl: "10m", autoRefresh: true });
const locks = await Promise.all(Array.from({ length: 500 }, (_, at) => take(`held:${at}`)));

let stood = false;
const failed = [];
async function work(name) {
  for (let round = 0; !stood; round += 1) {
    try {
      const lock = await take(`${name}:${round}`);
      await lock.refresh();
      await lock.release();
      if (round % 50 === 0) await locker.ping();
    } catch (error) {
      failed.push(`${error.name}: ${error.message}`);
    }
  }
}
const working = Array.from({ length: 8 }, (_, at) => work(`work:${at}`));
let last = performance.now();
const watch = setInterval(() => {
  stood ||= performance.now() - last > 4_000;
  last = performance.now();
}, 50);
// Only now, because it may be stopped as soon as it has said so.
say({ busy: true });
await Promise.all(working);
clearInterval(watch);
// Everything that was due while it stood still gets its turn.
await new Promise((resolve) => setTimeout(resolve, 200));
say({
  held: locks.filter((lock) => lock.held).length,
  aborted: locks.filter((lock) => lock.signal.aborted).length,
  failed,
});
await locker.close();
await end();
