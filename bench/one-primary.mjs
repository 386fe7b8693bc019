// Measures the capacity of one primary for docs/scaling.md: cycles, held locks, room for locks, waiting processes, connections, refused
// connections, and the cost of a crash. `npm run build`, then
// node bench/one-primary.mjs [cycles] [held] [room] [waiting] [connections] [refused] [crash].
// Needs Linux, because it reads the usage of the server's processes from /proc.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "../dist/index.js";
import { PostgresServer } from "../dist/testing/index.js";
import { CpuWatch, cpuOf, cpuOfEnded, proportionalBytes } from "./server-processes.mjs";
import { median, percentile, sorted } from "./statistics.mjs";

const parts = { cycles, held, room, waiting, connections, refused, crash };
const asked = process.argv.slice(2);
for (const [name, part] of Object.entries(parts)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  console.log(`\n${name}`);
  console.table(await part());
}

/** Measures the server's processor time for an acquire and a release, one after the other and many at once. */
async function cycles() {
  return withServer({}, async ({ url, ask }) => {
    const rows = [];
    const locker = new PostgresLocker({ connectionString: url });
    for (const callers of [1, 8, 64, 1_024]) {
      const cycle = async (caller) => (await locker.acquire(`cycle:${caller}`)).release();
      const run = (count) =>
        Promise.all(
          Array.from({ length: callers }, async (_, caller) => {
            for (let i = 0; i < count / callers; i += 1) await cycle(caller);
          }),
        );
      const count = callers === 1 ? 3_000 : 30_000;
      await run(count / 3);
      const samples = [];
      for (let round = 0; round < 5; round += 1) {
        const cpu = new CpuWatch(await backendsOf(ask));
        const start = performance.now();
        await run(count);
        const us = cpu.lap() / count;
        samples.push({ us, perSecond: (count / (performance.now() - start)) * 1_000 });
      }
      const us = median(samples.map((sample) => sample.us));
      rows.push({
        callers,
        "server µs a cycle": us.toFixed(1),
        "cycles a second of a server's core": Math.round(1e6 / us),
        "measured a second": Math.round(median(samples.map(({ perSecond }) => perSecond))),
      });
    }
    await locker.close();
    return rows;
  });
}

/** Measures what many held locks cost, 1,000 on each session: the server's memory, listing them, and an acquire beside them. */
async function held() {
  const rows = [];
  for (const count of [0, 10_000, 100_000, 200_000]) {
    const settings = { max_connections: 250, max_locks_per_transaction: 1_000 };
    rows.push(
      await withServer(settings, async ({ url, ask }) => {
        const holders = await Promise.all(
          Array.from({ length: count / 1_000 }, async (_, i) => {
            const client = await connected(url);
            const first = BigInt(i) * 1_000n;
            const sql = "select count(pg_advisory_lock($1::int8 + n)) from generate_series(1, 1000) as n";
            await client.query(sql, [first]);
            return client;
          }),
        );
        const locker = new PostgresLocker({ connectionString: url });
        const cycle = async (i) => {
          const start = performance.now();
          const lock = await locker.acquire(`beside:${i % 10}`);
          const took = performance.now() - start;
          await lock.release();
          return took;
        };
        for (let i = 0; i < 500; i += 1) await cycle(i);
        const cpu = new CpuWatch(await backendsOf(ask));
        const took = [];
        for (let i = 0; i < 3_000; i += 1) took.push(await cycle(i));
        const us = cpu.lap() / took.length;
        const look = performance.now();
        await ask("select count(*) from pg_locks");
        const lookMs = performance.now() - look;
        await locker.close();
        await Promise.all(holders.map((client) => client.end()));
        return {
          held: count,
          "acquire, p50 ms": percentile(sorted(took), 0.5).toFixed(3),
          "server µs a cycle": us.toFixed(1),
          "a look at pg_locks, ms": lookMs.toFixed(0),
        };
      }),
    );
  }
  return rows;
}

/** Measures what room for locks costs: the server allocates it at its start, whether or not locks are held. */
async function room() {
  const rows = [];
  for (const max_locks_per_transaction of [64, 1_000, 4_000, 16_000]) {
    const settings = { max_connections: 100, max_locks_per_transaction };
    rows.push(
      await withServer(settings, async ({ ask }) => {
        const [{ setting }] = await ask("select setting from pg_settings where name = 'shared_memory_size'");
        return { max_locks_per_transaction, max_connections: 100, "shared memory, MB": Number(setting) };
      }),
    );
  }
  return rows;
}

/**
 * Measures what waiting lockers, one for each process, cost while they wait and while the lock is handed over among them: all for one key,
 * ten for each key, and without the server's deadlock check, which goes through all waiters of a key.
 */
async function waiting() {
  const cases = [
    ...[50, 100, 200, 400].map((processes) => ({ processes, keys: 1 })),
    ...[100, 400].map((processes) => ({ processes, keys: processes / 10 })),
    ...[100, 400].map((processes) => ({ processes, keys: 1, deadlock_timeout: "10s" })),
  ];
  const rows = [];
  for (const { processes, keys, ...settings } of cases) {
    rows.push(
      await withServer({ max_connections: processes + 150, ...settings }, async ({ url, ask }) => {
        const holder = new PostgresLocker({ connectionString: url });
        const keyOf = (i) => `key:${i % keys}`;
        const held = await Promise.all(
          Array.from({ length: keys }, (_, i) => holder.acquire(keyOf(i), { autoRefresh: true })),
        );
        const lockers = Array.from(
          { length: processes },
          () => new PostgresLocker({ connectionString: url }),
        );
        const through = lockers.map(async (locker, i) => {
          await (await locker.acquire(keyOf(i), { wait: true })).release();
          return performance.now();
        });
        const waits = async () =>
          Number(
            (await ask("select count(*) from pg_locks where locktype = 'advisory' and not granted"))[0].count,
          );
        // Not all of them wait at every moment, because some are asking again.
        while ((await waits()) < 0.9 * processes) await delay(200);
        await delay(11_000); // Short-lived connections are gone by then, and the lockers no longer ask in step.
        const pids = (await sessionsOf(ask, "application_name like 'pg-locker %'")).map(({ pid }) => pid);
        const seconds = 20;
        const cpu = new CpuWatch(pids);
        await delay(seconds * 1_000);
        const us = cpu.lap();
        const bytes = pids.map(proportionalBytes).reduce((sum, one) => sum + one, 0) / pids.length;
        const start = performance.now();
        for (const lock of held) await lock.release();
        const last = Math.max(...(await Promise.all(through)));
        const handOverUs = cpu.lap() / processes;
        await Promise.all([holder, ...lockers].map((locker) => locker.close()));
        const row = {
          processes,
          keys,
          ...settings,
          connections: pids.length,
          "server µs a second, each": (us / seconds / processes).toFixed(1),
          "MB a connection": (bytes / 2 ** 20).toFixed(2),
          "ms a hand-over": (((last - start) * keys) / processes).toFixed(2),
          "server µs a hand-over": handOverUs.toFixed(0),
        };
        console.log(JSON.stringify(row));
        return row;
      }),
    );
  }
  return rows;
}

/** Counts the connections of one locker, by what it does. */
async function connections() {
  return withServer({ max_locks_per_transaction: 1_000 }, async ({ url, ask }) => {
    const others = new PostgresLocker({ connectionString: url });
    const busy = await Promise.all(
      Array.from({ length: 16 }, (_, i) => others.acquire(`busy:${i}`, { autoRefresh: true })),
    );
    const beside = new Set((await sessionsOf(ask)).map(({ pid }) => pid));
    const keys = (count) => Array.from({ length: count }, (_, i) => `key:${i}`);
    const hold = (count, options) => (locker) =>
      Promise.all(keys(count).map((key) => locker.acquire(key, { autoRefresh: true, ...options })));
    const wait = (count) => (locker) => {
      for (let i = 0; i < count; i += 1) locker.acquire(`busy:${i}`, { wait: true }).catch(() => {});
    };
    const cases = {
      "nothing yet": () => {},
      "holds one lock": hold(1),
      "holds 1,000": hold(1_000),
      "holds 5,000": hold(5_000),
      "holds one, with a fencing token": hold(1, { fencing: true }),
      "waits for one": wait(1),
      "waits for 16": wait(16),
      "holds one, waits for one": async (locker) => {
        await hold(1)(locker);
        wait(1)(locker);
      },
    };
    const rows = [];
    for (const [what, act] of Object.entries(cases)) {
      const locker = new PostgresLocker({ connectionString: url });
      await act(locker);
      await delay(11_500); // Longer than short-lived connections last, and than the pool's idle time-out of 10 s.
      const own = (await sessionsOf(ask)).filter(({ pid }) => !beside.has(pid));
      rows.push({ locker: what, connections: own.length });
      await locker.close();
    }
    await Promise.all(busy.map((lock) => lock.release()));
    await others.close();
    return rows;
  });
}

/** Measures connections that are refused because `max_connections` is reached: each still starts a process in the server. */
async function refused() {
  const server = await PostgresServer.start({ settings: { max_connections: 10 } });
  const opened = [];
  for (;;) {
    try {
      opened.push(await connected(server.url));
    } catch {
      break;
    }
  }
  const count = 500;
  const before = cpuOfEnded(server.pid);
  for (let i = 0; i < count; i += 1) await connected(server.url).catch(() => {});
  const cpuMs = cpuOfEnded(server.pid) - before;
  await Promise.all(opened.map((client) => client.end()));
  await server[Symbol.asyncDispose]();
  return [{ refused: count, "server CPU, ms each": (cpuMs / count).toFixed(2) }];
}

/** Measures a crash: each locker holds a lock and wants it back at once. Times count from when the server accepts connections again. */
async function crash() {
  const rows = [];
  for (const count of [50, 100, 200]) {
    const server = await PostgresServer.start({ settings: { max_connections: 2 * count + 100 } });
    const lockers = Array.from({ length: count }, () => new PostgresLocker({ connectionString: server.url }));
    const take = (locker, i) => locker.acquire(`own:${i}`, { wait: true, autoRefresh: true });
    const locks = await Promise.all(lockers.map(take));
    const told = [];
    const back = locks.map(async (lock, i) => {
      await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
      told.push(performance.now());
      await take(lockers[i], i);
      return performance.now();
    });
    await delay(1_000);
    const start = performance.now();
    await server.stop({ mode: "immediate" });
    while (told.length < count) await delay(5);
    await delay(2_000);
    await server.resume();
    const accepts = performance.now();
    const at = sorted((await Promise.all(back)).map((time) => time - accepts));
    const cpuMs = cpuOf(server.pid);
    const client = await connected(server.url);
    const sql = "select sessions::int from pg_stat_database where datname = 'postgres'";
    await delay(1_500); // The statistics are written once a second.
    const { rows: counted } = await client.query(sql);
    await client.end();
    rows.push({
      processes: count,
      "last one told, ms": (Math.max(...told) - start).toFixed(0),
      "half have their lock again, ms": percentile(at, 0.5).toFixed(0),
      "all, ms": at.at(-1).toFixed(0),
      "sessions opened, each": (counted[0].sessions / count).toFixed(2),
      "server CPU, ms each": (cpuMs / count).toFixed(1),
    });
    await Promise.all(lockers.map((locker) => locker.close()));
    await server[Symbol.asyncDispose]();
  }
  return rows;
}

async function withServer(settings, work) {
  const server = await PostgresServer.start({ settings });
  try {
    const observer = await connected(server.url);
    const ask = async (sql, values) => (await observer.query(sql, values)).rows;
    const answer = await work({ url: server.url, ask });
    await observer.end();
    return answer;
  } finally {
    await server[Symbol.asyncDispose]();
  }
}

async function connected(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

function sessionsOf(ask, which = "true") {
  return ask(
    `select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() and ${which}`,
  );
}

async function backendsOf(ask) {
  return (await sessionsOf(ask)).map(({ pid }) => pid);
}
