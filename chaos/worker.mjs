// One of the processes that compete for the keys. Started by run.mjs: worker.mjs <facts as JSON>
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { Callers } from "./callers.mjs";
import { Claims } from "./claims.mjs";
import { throwingHooks } from "./hooks.mjs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { Journal } from "./journal.mjs";
import { Draw, keysOf } from "./keys.mjs";
import { between, randomOf } from "./plan.mjs";
import { leaveOpen } from "./transactions.mjs";

const {
  seed,
  journal: path,
  writer,
  link,
  direct,
  namespace,
  lanes,
  sessions,
  pooler,
  recoveryGrace,
  hooksThrow,
} = JSON.parse(process.argv[2]);

const now = () => Number(process.hrtime.bigint()) / 1e6;
const keys = keysOf({ isGraceful: recoveryGrace !== undefined });
const journal = new Journal(path);
const pool = new pg.Pool({ connectionString: link, max: sessions === "dedicated" ? lanes + 8 : 24 });
const locker = new PostgresLocker({
  pool,
  namespace,
  sessions,
  pooler,
  recoveryGrace,
  ttlEnforcement: "server",
  connWaitTimeout: "2s",
  ...(hooksThrow && throwingHooks),
});
// Writes go directly to the resource's own server: a holder that is cut off from its lock can still reach the resource.
const resource = new pg.Pool({ connectionString: direct, max: 10, connectionTimeoutMillis: 2_000 });
resource.on("error", () => {});

const claims = new Claims({ journal, now });
const callers = new Callers({ locker, claims, journal, resource, draw: new Draw(keys), keys, now });
callers.writer = writer;

process.on("warning", ({ name, message, stack }) => {
  // The warning about throwing hooks is expected, and a deprecation of the driver is not a fault.
  if (name === "DeprecationWarning") journal.count(`failed: warning: ${message.slice(0, 60)}`);
  else if (name !== "PgLockerWarning") journal.wrong(`a warning: ${stack}`);
});
process.on("uncaughtException", (error) => {
  journal.wrong(`uncaught: ${error?.stack ?? error}`);
  process.exit(3);
});
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(0));
process.on("message", ({ block, jump, stop, close }) => {
  if (block !== undefined) blockFor(block);
  if (jump !== undefined) setClock(jump);
  if (stop) callers.isStopping = true;
  if (close) void end();
});

claims.start();
const looking = setInterval(() => callers.look(), 1_000);
process.send({ ready: true });
await Promise.all([
  forget(randomOf(seed)),
  ...Array.from({ length: lanes }, (_, lane) => callers.run(randomOf(seed + 1 + lane))),
]);
claims.stop();
clearInterval(looking);
process.send({ stopped: true });

/** An application that shares the pool: it begins transactions, and returns the clients without ending them. */
async function forget(random) {
  while (!callers.isStopping) {
    await delay(between(random, [500, 3_000]));
    try {
      const ignore = () => {};
      const client = await connected(ignore);
      await client.query(leaveOpen).finally(() => {
        client.removeListener("error", ignore);
        client.release();
      });
      journal.count("left open");
    } catch {
      // The application is hit by the same faults.
    }
  }
}

/** Listens in the very step in which the pool hands a client out: its end may have come together with its beginning. */
function connected(listener) {
  return new Promise((resolve, reject) => {
    pool.connect((error, client) => {
      client?.on("error", listener);
      if (client === undefined) reject(error);
      else resolve(client);
    });
  });
}

/** Shifts the wall clock of this process by a number of milliseconds. */
function setClock(milliseconds) {
  const { now: before } = Date;
  Date.now = () => before() + milliseconds;
}

function blockFor(milliseconds) {
  const until = now() + milliseconds;
  let next = 0;
  while (now() < until) {
    if (now() < next) continue;
    claims.checkAll();
    next = now() + 2;
  }
}

async function end() {
  // A session may be kept for a moment after its last lock.
  const reserved = () => pool.totalCount - pool.idleCount;
  for (const late = now() + 10_000; reserved() > 0 && now() < late; ) await delay(50);
  if (reserved() > 0) journal.wrong(`${reserved()} connections checked out without a lock`);
  await locker.close();
  await Promise.all([pool.end(), resource.end()]);
  process.disconnect();
}
