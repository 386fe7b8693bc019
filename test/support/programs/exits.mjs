// Does what its first argument says, and then nothing more, to show whether the process ends by itself. Says what it has done, and { closed
// } with the milliseconds that close() took.
import { PostgresLocker } from "../../../dist/index.js";
import { reachByItself } from "./driver.mjs";

const say = (message) => console.log(JSON.stringify(message));
const [what, key = "key"] = process.argv.slice(2);
const logger = {
  debug() {},
  info() {},
  error() {},
  warn: (facts, message) => say({ warned: message, of: facts.key }),
};
const locker = new PostgresLocker({
  ...(await reachByItself()),
  ...(what === "lost" && { logger }),
  ...(what === "breaker-pending" && { circuitBreaker: { execute: () => new Promise(() => {}) } }),
});

async function close() {
  const start = performance.now();
  await locker.close();
  say({ closed: performance.now() - start });
}

switch (what) {
  case "nothing":
    say({ made: true });
    break;
  case "released":
    await (await locker.acquire(key)).release();
    await locker.withLock(key, () => {}, { fencing: true });
    await (await locker.tryAcquire(key)).release();
    await locker.ping();
    say({ released: true });
    break;
  case "idle":
    await (await locker.acquire(key)).release();
    say({ released: true });
    break;
  case "waited": {
    const lock = await locker.acquire(key);
    const waiting = locker.acquire(key, { wait: "10s" });
    setTimeout(() => lock.release(), 300);
    await (await waiting).release();
    say({ released: true });
    break;
  }
  case "held":
    globalThis.lock = await locker.acquire(key);
    say({ held: globalThis.lock.held });
    break;
  case "waits":
    say({ waits: true });
    await locker.acquire(key, { wait: true });
    say({ got: true });
    break;
  case "breaker-pending":
    await locker.acquire(key, { wait: 1_500 }).catch(({ reason }) => say({ refused: reason }));
    break;
  case "close-held":
    globalThis.lock = await locker.acquire(key, { fencing: true });
    await close();
    break;
  case "close-silent":
    globalThis.lock = await locker.acquire(key);
    say({ held: true });
    process.stdin.once("data", () => {
      process.stdin.destroy();
      void close();
    });
    break;
  case "lost":
    await (async () => {
      await locker.acquire(key, { autoRefresh: true });
      globalThis.kept = await locker.acquire(`${key}:kept`);
      await (await locker.acquire(`${key}:released`)).release();
    })();
    for (let round = 0; round < 20; round += 1) {
      globalThis.gc();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await close();
    break;
  default:
    throw new Error(`no such thing: ${what}`);
}
