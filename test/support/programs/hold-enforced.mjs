// Takes the key of its first argument with a TTL that the server enforces and the options of its second argument (JSON), and writes down
// when it relied on the lock. The clock is read before the question, so a line is never later than that moment. All instants are of
// `process.hrtime.bigint()`, which every process of the machine shares.
//
// Says { ready } when it has been connected, and does what the lines of its standard input say, each a command with its value:
//   { acquire } · { block: ms } blocks the event loop · { poll } asks in a synchronous loop until the lock isn't held ·
//   { jump: ms } sets the wall clock · { rounds: n } takes and gives back the lock n times, and exits
import { createInterface } from "node:readline";
import { PostgresLocker } from "../../../dist/index.js";
import { reach } from "./driver.mjs";

const [key, options = "{}"] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message)); // Written when it returns: standard output is a pipe.
const instant = () => String(process.hrtime.bigint());
const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

const { way, end: endPool } = await reach();
const locker = new PostgresLocker({ ...way, ttlEnforcement: "server", sessions: process.env.SESSIONS });
let lock;
let sampler;
let timersRun = 0;

const commands = {
  async acquire() {
    lock = await locker.acquire(key, JSON.parse(options));
    lock.signal.addEventListener("abort", () => {
      say({ aborted: lock.signal.reason.code, at: instant() });
    });
    say({ acquired: String(lock.fencingToken), at: instant() });
    sampler = setInterval(() => {
      timersRun += 1;
      if (!holds()) void end();
    }, 1);
  },
  block(ms) {
    const timersBefore = timersRun;
    say({ blocking: true });
    sleep(ms);
    void end(timersBefore);
  },
  poll() {
    const timersBefore = timersRun;
    say({ polling: true });
    while (holds()) sleep(1);
    void end(timersBefore);
  },
  jump(ms) {
    const { now } = Date;
    Date.now = () => now() + ms;
  },
  async rounds(count) {
    for (let round = 0; round < count; round += 1) {
      const held = await locker.acquire(key, JSON.parse(options));
      say({ token: String(held.fencingToken), at: instant() });
      await held.release();
    }
    await locker.close();
    await endPool();
    process.exit();
  },
};

function holds() {
  const at = instant();
  const { held } = lock;
  if (held) say({ heldAt: at });
  return held;
}

/** Says whether the lock is held, first without an await, and then what its operations do. */
async function end(timersBefore = timersRun) {
  clearInterval(sampler);
  const { held, expired } = lock;
  const asserted = outcome(() => lock.assertHeld());
  const sync = { held, expired, asserted, timersRun: timersRun - timersBefore };
  const refreshed = await lock.refresh().then(() => "done", outcomeOf);
  const released = await lock.release().then(() => "done", outcomeOf);
  say({ ended: true, ...sync, refreshed, released, aborted: lock.signal.aborted });
}

function outcome(work) {
  try {
    work();
    return "done";
  } catch (error) {
    return outcomeOf(error);
  }
}

function outcomeOf(error) {
  return error.code;
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  for (const [command, value] of Object.entries(JSON.parse(line))) {
    try {
      await commands[command](value);
    } catch (error) {
      say({ failed: command, code: error.code, message: error.message });
    }
  }
});
// Does what a locker does once, with its first lock.
await (await locker.acquire(`${key}:before:${process.pid}`)).release();
say({ ready: true });
