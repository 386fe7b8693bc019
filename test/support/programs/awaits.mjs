// Waits for an answer of a locker that only a timer without a hold on the process brings: if the process lives that long, it says what
// came, and exits with 0. Otherwise Node.js ends it with 13, in the middle of the `await`.
import { MemoryLocker, PostgresLocker } from "../../../dist/index.js";
import { reachByItself } from "./driver.mjs";

const [where, what, key] = process.argv.slice(2);

async function createLocker(options) {
  return where === "memory"
    ? new MemoryLocker({ transaction: () => ({ query: async () => ({ rows: [] }) }), ...options })
    : new PostgresLocker({ ...(await reachByItself()), ...options });
}

const soon = (act) => void setTimeout(act, 400).unref();
const never = { execute: () => new Promise(() => {}) };
const later = () => new Promise((resolve) => soon(() => resolve("later")));
const stopsSoon = () => {
  const controller = new AbortController();
  soon(() => controller.abort(new Error("stopped")));
  return { signal: controller.signal };
};

const cases = {
  async wait(locker) {
    const holder = await locker.acquire(key);
    soon(() => holder.release());
    await (await locker.acquire(key, { wait: true })).release();
  },
  async "semaphore wait"(locker) {
    const semaphore = locker.semaphore(key, 1);
    const holder = await semaphore.acquire();
    soon(() => holder.release());
    await (await semaphore.acquire({ wait: true })).release();
  },
  async "group wait"(locker) {
    const holder = await locker.acquire(key);
    soon(() => holder.release());
    await (await locker.acquireAll([key, `${key}:2`], { wait: true })).release();
  },
  async "stuck breaker"() {
    await (await createLocker({ circuitBreaker: never })).acquire(key, stopsSoon()).catch(() => {});
  },
  async "stuck breaker, wait"() {
    const options = { wait: true, ...stopsSoon() };
    await (await createLocker({ circuitBreaker: never })).acquire(key, options).catch(() => {});
  },
  async "stuck breaker, semaphore"() {
    const semaphore = (await createLocker({ circuitBreaker: never })).semaphore(key, 2);
    await semaphore.acquire(stopsSoon()).catch(() => {});
  },
  async "stuck breaker, refresh"() {
    let isStuck = false;
    const execute = (fn) => (isStuck ? new Promise(() => {}) : fn());
    const lock = await (await createLocker({ circuitBreaker: { execute } })).acquire(key);
    isStuck = true;
    await lock.refresh(undefined, stopsSoon()).catch(() => {});
    await lock.release();
  },
  withLock: (locker) => locker.withLock(key, later),
  withPermit: (locker) => locker.semaphore(key, 2).withPermit(later),
  withTransaction: (locker) => locker.withTransaction(key, later),
  async "loss of a withLock"(locker) {
    const forever = () => new Promise(() => {});
    await locker.withLock(key, forever, { ttl: 400, autoRefresh: false }).catch(() => {});
  },
  async election(locker) {
    const holder = await locker.acquire(key);
    await locker.elect(key, { onElected() {}, ...stopsSoon() });
    await holder.release();
  },
  leader: (locker) =>
    locker.elect(key, {
      ...stopsSoon(),
      onElected: (_, { signal }) => new Promise((resolve) => signal.addEventListener("abort", resolve)),
    }),
  async drain(locker) {
    const holder = await locker.acquire(key);
    soon(() => holder.release());
    await locker.close({ drain: "1m" });
  },
};

// A caller that has left, while a breaker still has its question, doesn't keep the process alive any more.
await cases[what](await createLocker());
console.log(JSON.stringify({ answered: what }));
