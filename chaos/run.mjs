// The proof that locks hold, judged by an independent observer: run.mjs [--minutes N] [--seed S] [--plan] [--keep]
// Several processes compete for a few keys on a real PostgreSQL, while faults are injected after a plan that follows from the
// seed. Exits with 1 if anything was wrong, or if too little happened to prove anything. See docs/chaos.md.
import { randomInt } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { lockId } from "../dist/index.js";
import { Cluster } from "./cluster.mjs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import * as judge from "./judge.mjs";
import { Observer, roleOf } from "./observer.mjs";
import { faultKinds, planOf } from "./plan.mjs";
import { planLines, reportLines } from "./report.mjs";
import { createResource, fillResource, writesInOrder } from "./resource.mjs";

const workers = 4;
const lanes = 3;
const keys = ["invoice", "report", "stock", "ledger"];
const namespace = 7;
/** Milliseconds. */
const ttls = [400, 900];
/** Milliseconds beyond twice the longest TTL that a lock may be in the server without a claim. */
const slack = 500;
/** Milliseconds that a fault may be late, as on a busy machine; else it is left out, where one of its kind has been. */
const late = 1_000;
/** Acquires a second. A quieter run proves nothing. */
const floor = 2;

const { values: given } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: String(randomInt(2 ** 31)) },
    plan: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const minutes = Number(given.minutes);
const seed = Number(given.seed);
if (!(minutes >= 0.4 && minutes <= 24 * 60))
  throw new Error("Expected --minutes to be from 0.4, for each fault to come, to 1440");
if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
  throw new Error("Expected --seed to be a whole number from 0 to 4294967295");
}
const plan = planOf({ seed, minutes, workers });

const now = () => Number(process.hrtime.bigint()) / 1e6;
const print = (...lines) => void process.stdout.write(`${lines.join("\n")}\n`);

let directory;
let cluster;
let cleaning;

if (given.plan) print(...planLines(plan));
else {
  // Whatever ends this process: the server ends by its own watch, the links with their channel to it, and they end the workers.
  process.on("exit", () => {
    if (directory !== undefined && !given.keep) rmSync(directory, { recursive: true, force: true });
  });
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ]) {
    // A second one, which npm passes on after the terminal, must not cut the cleaning short.
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
  const facts = { seed, directory, keep: given.keep, namespace, keys, ttls, lanes };
  cluster = new Cluster({ facts, now });
  await cluster.startServers();
  const { version, resource } = await prepare();
  print(
    `PostgreSQL ${version}, Node.js ${process.versions.node}, ${cpus().length} cores`,
    `${workers} workers of ${lanes} callers, ${keys.length} keys, TTL ${ttls.join(" to ")} ms, ${minutes} min, seed ${seed}`,
    `${plan.faults.length} faults planned; again with: npm run chaos -- --minutes ${minutes} --seed ${seed}`,
    "",
  );
  const ids = keys.map((key) => [lockId(namespace, key), key]);
  const observer = new Observer({
    url: cluster.server.url,
    now,
    keys: new Map(ids.map(([id, key]) => [id.toString(), key])),
  });
  await cluster.startWorkers(workers);
  observer.start();
  const started = now();
  await follow(observer, started);
  const ended = now();
  const leaks = await drain(observer, resource);
  const { rows: writes } = await resource.query(writesInOrder);
  await observer.stop();
  await resource.end();
  if (given.keep) {
    const { injected, endings } = cluster;
    writeFileSync(
      join(directory, "seen.json"),
      JSON.stringify({ started, injected, endings, samples: observer.samples }),
    );
    print(`kept: ${directory}`, "");
  }
  const seen = { ...read(), writes, observer, leaks, started, ended };
  return verdict(seen);
}

/** Answers the version of the servers, and a client of the one that has the resource. */
async function prepare() {
  const client = new pg.Client({ connectionString: cluster.server.url });
  await client.connect();
  for (let worker = 1; worker <= workers; worker += 1)
    await client.query(`create role ${roleOf(worker)} login`);
  const { rows } = await client.query("show server_version");
  await client.end();
  const resource = new pg.Client({ connectionString: cluster.resource.url });
  // The statement in hand, or the next one, rejects with it.
  resource.on("error", () => {});
  await resource.connect();
  await resource.query(createResource);
  await resource.query(fillResource, [keys]);
  await resource.query("create role chaos_writer login");
  await resource.query("grant all on resource, writes, writes_seq_seq to chaos_writer");
  return { version: rows[0].server_version, resource };
}

/** Injects the faults, those of each worker and of the server one after the other; resolves at the end of the run. */
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

/** Stops the workers and lets them close; answers what they left behind. */
async function drain(observer, resource) {
  await cluster.stopWorkers(15_000);
  await delay(100);
  const locks = Object.values(await observer.look()).flat();
  await cluster.endVanished();
  await cluster.closeWorkers(15_000);
  const sessions = "select usename, application_name from pg_stat_activity where usename like 'chaos_%'";
  let left = [];
  for (let attempt = 0; attempt < 20; attempt += 1) {
    left = [...(await observer.ask(sessions)), ...(await resource.query(sessions)).rows];
    if (left.length === 0) break;
    await delay(100);
  }
  return { locks, sessions: left, locksAfter: Object.values(await observer.look()).flat() };
}

/** What the workers wrote down. */
function read() {
  const claims = [];
  const puts = [];
  const did = new Map();
  const failed = new Map();
  const wrong = [];
  const count = (counts, what) => counts.set(what, (counts.get(what) ?? 0) + 1);
  for (const { worker, journal } of cluster.journals) {
    let text;
    try {
      text = readFileSync(journal, "utf8");
    } catch {
      // Killed before it had begun.
      continue;
    }
    const lines = text
      .split("\n")
      .filter((line) => line.endsWith("]"))
      .map((line) => JSON.parse(line));
    const own = judge.claimsOf(worker, lines);
    for (const claim of own) claims.push(claim);
    const tokens = new Map();
    for (const [what, ...rest] of lines) {
      if (what === "did") count(did, rest[0]);
      if (what === "failed") count(failed, `${rest[0]}: ${rest[1]}`);
      if (what === "wrong") wrong.push(`worker ${worker}: ${rest[0]}`);
      if (what === "got") {
        count(did, "acquire");
        tokens.set(rest[0], BigInt(rest[3]));
      }
      if (what === "put") {
        const [id, outcome, how, from, to] = rest;
        puts.push({ worker, token: tokens.get(id), outcome, how, from, to });
      }
    }
  }
  return { claims, puts, did, failed, wrong };
}

function verdict({ claims, puts, did, failed, wrong: complaints, writes, observer, leaks, started, ended }) {
  const { endings, injected } = cluster;
  const { samples } = observer;
  const overlaps = judge.judgeOverlaps(claims, endings);
  const server = judge.judgeClaims(claims, samples, endings);
  // A lock that was waited for is proved once more if its grant came late, which begins its TTL anew: a worker that falls silent right
  // then leaves it unclaimed for two.
  const rows = judge.judgeRows(claims, samples, 2 * ttls[1] + slack);
  const stale = judge.staleWrites(writes);
  const lock = ({ id, key, mode, role }) => `${mode} on ${id} (${key ?? "of no key"}) by ${role}`;
  const wrong = [
    ...complaints,
    ...cluster.wrong,
    ...overlaps.wrong,
    ...server.wrong,
    ...rows.wrong,
    ...judge.judgeTokens(claims, endings),
    ...stale.map((sentence) => `stale write: ${sentence}`),
    ...judge.refusedInBelief(claims, puts, endings),
    ...leaks.locks.map((row) => `leaked lock: ${lock(row)}, after the workers had stopped`),
    ...leaks.locksAfter.map((row) => `leaked lock: ${lock(row)}, after the workers had ended`),
    ...leaks.sessions.map((row) => `leaked session: ${row.usename}, ${row.application_name}`),
  ];
  const half = started + plan.half;
  const seconds = (ended - started) / 1_000;
  const acquires = did.get("acquire") ?? 0;
  const kinds = Object.keys(faultKinds).filter((kind) => cluster.allows(kind));
  const because = judge.voidBecause({
    acquires,
    seconds,
    floor,
    faults: injected,
    kinds,
    samples: samples.length,
  });
  print(
    ...reportLines({
      seconds,
      acquires,
      did,
      failed,
      claims,
      puts,
      injected,
      kinds,
      overlaps: overlaps.overlaps,
      half,
      server,
      rows,
      stale,
      writes,
      leaks,
      unavailable: judge.unavailability(claims, injected),
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
