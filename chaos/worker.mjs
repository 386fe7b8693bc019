// One of the processes that compete for the keys. Started by run.mjs: worker.mjs <facts as JSON>
//
// It writes down its belief: a line with the time whenever it asks a lock `held` and hears true. The time is read before the
// asking, so that it believed at that time or later. It asks every millisecond, before each step, and all through a blocked
// event loop.
import { openSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { LockExpiredError, LockerError, LockNotHeldError, PostgresLocker } from "../dist/index.js";
import { between, randomOf } from "./plan.mjs";
import { write } from "./resource.mjs";

const {
  seed,
  journal: file,
  link,
  direct,
  namespace,
  keys,
  ttls,
  lanes,
  sessions,
  pooler,
} = JSON.parse(process.argv[2]);

const journal = openSync(file, "a");
const now = () => Number(process.hrtime.bigint()) / 1e6;
// Synchronously: the kernel has the line before the next step is taken, and a SIGKILL takes nothing back.
const note = (...line) => writeSync(journal, `${JSON.stringify(line)}\n`);
const count = (what) => note("did", what);

const live = new Set();
let claims = 0;
let stopping = false;

const pool = new pg.Pool({ connectionString: link, max: lanes + 1 });
const locker = new PostgresLocker({
  pool,
  namespace,
  sessions,
  pooler,
  ttlEnforcement: "server",
  connWaitTimeout: "2s",
});
// Writes go straight to the resource's own server: a holder that is cut off from its lock still reaches what the lock protects.
const resource = new pg.Pool({ connectionString: direct, max: lanes, connectionTimeoutMillis: 2_000 });
resource.on("error", () => {});

process.on("uncaughtException", (error) => {
  note("wrong", `uncaught: ${error.stack}`);
  process.exit(3);
});
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(0));
process.on("message", ({ block, jump, stop, close }) => {
  if (block !== undefined) blockFor(block);
  if (jump !== undefined) setClock(jump);
  if (stop) stopping = true;
  if (close) void end();
});

const asking = setInterval(askAll, 1);
process.send({ ready: true });
await Promise.all(
  Array.from({ length: lanes }, async (_, lane) => {
    const random = randomOf(seed + lane);
    while (!stopping) await turn(random);
  }),
);
clearInterval(asking);
process.send({ stopped: true });

async function turn(random) {
  const key = keys[Math.floor(random() * keys.length)];
  const ttl = Math.round(between(random, ttls));
  const plan = random();
  const [lasts, refreshes] =
    plan < 0.7
      ? [between(random, [5, 120]), true]
      : plan < 0.85
        ? [between(random, [120, 1_500]), true]
        : [ttl + between(random, [20, 300]), false];
  const autoRefresh = refreshes && random() < 0.5;
  const asked = now();
  const lock = await acquire(random, key, { ttl, autoRefresh, fencing: true });
  if (lock === undefined) return;
  claims += 1;
  const claim = { id: claims, lock, key, isOver: false };
  note("got", claim.id, key, ttl, lock.fencingToken.toString(), asked);
  live.add(claim);
  await hold(random, claim, { lasts, refreshesByHand: refreshes && !autoRefresh });
  const why = await giveUp(claim);
  note("end", claim.id, why);
  // A holder that does not ask any more, and writes all the same.
  if (why !== "released" && random() < 0.6) {
    await delay(between(random, [0, 500]));
    await put(claim, "late");
  }
  await delay(between(random, [0, 30]));
}

async function acquire(random, key, options) {
  const waits = random() < 0.5;
  const wait = between(random, [50, 1_500]);
  try {
    note("did", waits ? "wait" : "try", key, now());
    const lock = await (waits ? locker.acquire(key, { ...options, wait }) : locker.tryAcquire(key, options));
    if (lock !== undefined) return lock;
    note("did", "contended", key, now());
  } catch (error) {
    failed("acquire", error);
  }
  await delay(between(random, [5, 40]));
  return undefined;
}

async function hold(random, claim, { lasts, refreshesByHand }) {
  const { lock } = claim;
  const until = now() + lasts;
  let refreshAt = now() + lock.ttl * 0.35;
  while (believes(claim) && now() < until) {
    await delay(between(random, [2, 20]));
    if (refreshesByHand && now() >= refreshAt && believes(claim)) {
      try {
        await lock.refresh();
        count("refresh");
      } catch (error) {
        failed("refresh", error);
      }
      refreshAt = now() + lock.ttl * 0.35;
    }
    if (random() < 0.2 && believes(claim)) {
      // Decided while it believed, and done some time later.
      if (random() < 0.3) await delay(between(random, [0, 100]));
      await put(claim, "decided");
    }
  }
}

/** Stops believing, and answers why. */
async function giveUp(claim) {
  const { lock } = claim;
  believes(claim);
  live.delete(claim);
  try {
    await lock.release();
    count("release");
    return "released";
  } catch (error) {
    failed("release", error);
  }
  if (!lock.signal.aborted) return "lost";
  return lock.signal.reason instanceof LockExpiredError ? "expired" : "lost";
}

async function put({ id, key, lock }, how) {
  const from = now();
  try {
    const { rowCount } = await resource.query(write, [key, lock.fencingToken.toString()]);
    note("put", id, rowCount === 1 ? "accepted" : "refused", how, from, now());
  } catch {
    count("write without an answer");
  }
}

/** Asks, and writes down what it believes. */
function believes(claim) {
  const at = now();
  if (claim.lock.held) {
    if (claim.isOver) note("wrong", `believed again: claim ${claim.id} of ${claim.key}`);
    note("held", claim.id, at);
    return true;
  }
  claim.isOver = true;
  return false;
}

function askAll() {
  for (const claim of live) if (!believes(claim)) live.delete(claim);
}

/** The wall clock's, by so many milliseconds, as far as this process knows. */
function setClock(milliseconds) {
  const { now: before } = Date;
  Date.now = () => before() + milliseconds;
}

function blockFor(milliseconds) {
  const until = now() + milliseconds;
  let next = 0;
  while (now() < until) {
    if (now() < next) continue;
    askAll();
    next = now() + 1;
  }
}

function failed(doing, error) {
  if (!(error instanceof LockerError)) {
    note("wrong", `${doing}: ${error?.stack ?? error}`);
    return;
  }
  const why = error.reason ?? error.sqlState;
  note("failed", doing, why === undefined ? error.code : `${error.code} (${why})`, now());
  if (!(error instanceof LockNotHeldError) && doing !== "acquire") note("wrong", `${doing}: ${error.stack}`);
}

async function end() {
  // A session may be kept for a moment after its last lock.
  const reserved = () => pool.totalCount - pool.idleCount;
  for (const late = now() + 2_000; reserved() > 0 && now() < late; ) await delay(50);
  if (reserved() > 0) note("wrong", `${reserved()} connections checked out without a lock`);
  await locker.close();
  await Promise.all([pool.end(), resource.end()]);
  process.disconnect();
}
