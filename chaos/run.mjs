// The proof that locks hold, judged by an independent observer: run.mjs [--minutes N] [--seed S] [--grace] [--plan] [--keep]
// Several processes compete for keys on a real PostgreSQL, while faults are injected according to a plan that follows from the
// seed. Exits with 1 if anything was wrong, or if too little happened to prove anything. See docs/chaos.md.
import { randomInt } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { lockId } from "../dist/index.js";
import { Cluster } from "./cluster.mjs";
import { Court } from "./court.mjs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { History } from "./history.mjs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { voidBecause } from "./judge.mjs";
import { grace, keysOf } from "./keys.mjs";
import { Observer, roleOf } from "./observer.mjs";
import { faultKinds, planOf } from "./plan.mjs";
import { list, planLines, progressLine, reportLines } from "./report.mjs";
import { createResource, fillResource, takeWrites } from "./resource.mjs";
import { committedOf, createWritten, grantWritten, writtenTwice } from "./transactions.mjs";

const workers = 4;
const namespace = 7;
/** How many milliseconds late a fault may be, as on a busy machine. A later one is left out if its kind has already occurred. */
const late = 1_000;
/** The least number of acquires a second. A run with fewer proves nothing. */
const floor = 5;
/** Milliseconds between two readings of the journals. */
const pause = 250;
/** Milliseconds between two progress lines, in a long run. */
const progress = 60_000;
/** What callers do. A run in which one of these never happened proves nothing about it. */
const ways = ["try", "wait", "refresh", "acquireAll", "withLock", "withTransaction", "left open"];

const { values: given } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: String(randomInt(2 ** 31)) },
    grace: { type: "boolean", default: false },
    plan: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const minutes = Number(given.minutes);
const seed = Number(given.seed);
const least = given.grace ? 1.5 : 0.5;
if (!(minutes >= least && minutes <= 24 * 60))
  throw new Error(`Expected --minutes to be from ${least}, so that each kind of fault occurs, to 1440`);
if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
  throw new Error("Expected --seed to be a whole number from 0 to 4294967295");
}
const plan = planOf({ seed, minutes, workers, grace: given.grace ? grace : 0 });
const keys = keysOf({ isGraceful: given.grace });

const now = () => Number(process.hrtime.bigint()) / 1e6;
const print = (...lines) => void process.stdout.write(`${lines.join("\n")}\n`);

let directory;
let cluster;
let cleaning;

if (given.plan) print(...planLines(plan));
else {
  // However this process ends, the server's watchdog ends the server, and the links end when their channel closes, and end the workers.
  process.on("exit", () => {
    if (directory !== undefined && !given.keep) rmSync(directory, { recursive: true, force: true });
  });
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ]) {
    // A second signal, which npm passes on after the terminal's own, must not interrupt the clean-up.
    process.on(signal, () => void cleanUp().finally(() => process.exit(code)));
  }
  try {
    process.exitCode = await main();
  } catch (error) {
    if (cleaning === undefined) {
      process.stderr.write(`${error?.stack ?? error}\n`);
      process.exitCode = 1;
    }
  } finally {
    await cleanUp();
  }
}

async function main() {
  directory = mkdtempSync(join(tmpdir(), "pg-locker-chaos-"));
  const court = new Court({ keys, half: () => started + plan.half });
  const history = new History({
    keys,
    keep: given.keep,
    now,
    judge: court,
    committed: async (ids) => {
      const [found] = await observer.ask(committedOf, [ids]);
      if (found.left_open) court.leftOpen();
      return new Set(found.ids);
    },
  });
  const recoveryGrace = given.grace ? grace : undefined;
  const facts = { seed, directory, keep: given.keep, namespace, recoveryGrace };
  cluster = new Cluster({ facts, history, now });
  court.hears(cluster);
  await cluster.startServers();
  const { version, resource } = await prepare();
  const again = `npm run chaos -- --minutes ${minutes} --seed ${seed}${given.grace ? " --grace" : ""}`;
  print(
    `PostgreSQL ${version}, Node.js ${process.versions.node}, ${cpus().length} cores`,
    `${workers} workers of ${cluster.lanes.join(" and ")} callers, ${keys.length} keys, ${minutes} min, seed ${seed}${given.grace ? `, a grace of ${grace} ms` : ""}`,
    `${plan.faults.length} faults planned; again with: ${again}`,
    "",
  );
  const ids = keys.map(({ name }) => [lockId(namespace, name), name]);
  const observer = new Observer({
    url: cluster.server.url,
    now,
    keys: new Map(ids.map(([id, name]) => [id.toString(), name])),
    onSample: (sample) => history.sample(sample),
  });
  await cluster.startWorkers(workers);
  observer.start();
  const started = now();
  const looking = look({ history, court, resource, started });
  await follow(observer, started);
  const ended = now();
  const leaks = await drain(observer, resource);
  await looking.stop();
  await history.finish();
  const twice = await observer.ask(writtenTwice);
  await observer.stop();
  await resource.end();
  if (given.keep) {
    const { injected, endings } = cluster;
    writeFileSync(join(directory, "seen.json"), JSON.stringify({ started, injected, endings }));
    print(`kept: ${directory}`, "");
  }
  const seconds = (ended - started) / 1_000;
  return verdict({ court, history, observer, twice, leaks, seconds, load: looking.load });
}

/** Judges new records and samples at intervals until it is stopped. */
function look({ history, court, resource, started }) {
  let isStopping = false;
  let told = started + progress;
  const loads = [];
  const known = new Set();
  const takeAll = async () => {
    const { rows } = await resource.query(takeWrites);
    for (const row of rows) court.write(row);
  };
  const running = (async () => {
    while (!isStopping) {
      const behind = history.advance();
      await takeAll();
      if (loads.length < (now() - started) / 10_000) loads.push(loadavg()[0]);
      if (now() > told && minutes > 2) {
        const wrong = [...history.wrong, ...cluster.wrong, ...court.wrong];
        print(
          progressLine({ seconds: (now() - started) / 1_000, did: history.did, wrong: wrong.length, behind }),
        );
        const fresh = wrong.filter((sentence) => !known.has(sentence));
        for (const sentence of fresh) known.add(sentence);
        if (fresh.length > 0) print(...list("WRONG", fresh));
        told += progress;
      }
      await delay(pause);
    }
    await takeAll();
  })();
  running.catch(() => {});
  return {
    /** The machine's average load. */
    get load() {
      return loads.reduce((sum, load) => sum + load, 0) / loads.length;
    },
    stop: () => {
      isStopping = true;
      return running;
    },
  };
}

/** Creates the tables and roles. Returns the version of the servers, and a client of the resource's server. */
async function prepare() {
  const client = new pg.Client({ connectionString: cluster.server.url });
  await client.connect();
  const roles = Array.from({ length: workers }, (_, index) => roleOf(index + 1));
  for (const role of roles) await client.query(`create role ${role} login`);
  await client.query(createWritten);
  await client.query(grantWritten(roles));
  const { rows } = await client.query("show server_version");
  await client.end();
  const resource = new pg.Client({ connectionString: cluster.resource.url });
  // The current statement, or the next one, rejects with the error.
  resource.on("error", () => {});
  await resource.connect();
  await resource.query(createResource);
  await resource.query(fillResource, [keys.map(({ name }) => name)]);
  await resource.query("create role chaos_writer login");
  await resource.query("grant all on resource, writes, writes_seq_seq to chaos_writer");
  return { version: rows[0].server_version, resource };
}

/** Injects the faults: for each worker and for the server, one after the other. Resolves at the end of the run. */
async function follow(observer, started) {
  const targets = new Set(plan.faults.map(({ worker }) => worker));
  const until = (at) => delay(Math.max(0, started + at - now()));
  const streams = [...targets].map(async (target) => {
    for (const fault of plan.faults.filter(({ worker }) => worker === target)) {
      await until(fault.at);
      if (cleaning !== undefined) return;
      const seenBefore = cluster.injected.some(({ kind }) => kind === fault.kind);
      if (seenBefore && now() - started > fault.at + late) continue;
      await cluster.inject(fault, observer);
    }
  });
  await Promise.all(streams);
  await cluster.heal();
  await until(plan.length);
}

/** Stops the workers and lets them close. Returns what they left behind. */
async function drain(observer, resource) {
  await cluster.stopWorkers(60_000);
  // The locks of a host that has just vanished are there for up to a TTL more. Nobody has leaked them.
  await cluster.endVanished();
  await delay(500);
  const locks = Object.values(await observer.look()).flat();
  await cluster.closeWorkers(60_000);
  const sessions = "select usename, application_name from pg_stat_activity where usename like 'chaos_%'";
  let left = [];
  for (let attempt = 0; attempt < 100; attempt += 1) {
    left = [...(await observer.ask(sessions)), ...(await resource.query(sessions)).rows];
    if (left.length === 0) break;
    await delay(100);
  }
  return { locks, sessions: left, locksAfter: Object.values(await observer.look()).flat() };
}

function verdict({ court, history, observer, twice, leaks, seconds, load }) {
  const { did } = history;
  const { injected } = cluster;
  const lock = ({ id, key, mode, role }) => `${mode} on ${id} (${key ?? "of no key"}) by ${role}`;
  const wrong = [
    ...history.wrong,
    ...cluster.wrong,
    ...court.wrong,
    ...twice.map(({ key, n, times }) => `${keys[key].name}: ${times} transactions have written number ${n}`),
    ...leaks.locks.map((row) => `leaked lock: ${lock(row)}, after the workers had stopped`),
    ...leaks.locksAfter.map((row) => `leaked lock: ${lock(row)}, after the workers had ended`),
    ...leaks.sessions.map((row) => `leaked session: ${row.usename}, ${row.application_name}`),
  ];
  const acquires = did.get("acquire") ?? 0;
  const kinds = Object.keys(faultKinds).filter((kind) => cluster.allows(kind));
  const faults = new Set(injected.map(({ kind }) => kind));
  const { samples } = observer;
  const because = voidBecause({ acquires, seconds, floor, faults, kinds, samples, did, ways });
  const half = court.half();
  print(
    ...reportLines({
      seconds,
      load,
      acquires,
      did,
      injected,
      kinds,
      court,
      half,
      leaks,
      samples,
      wrong,
      because,
    }),
  );
  return wrong.length === 0 && because.length === 0 ? 0 : 1;
}

function cleanUp() {
  cleaning ??= cluster?.dispose() ?? Promise.resolve();
  return cleaning;
}
