// Three processes compete for one key on a real PostgreSQL; twice, the holder is killed in mid-work. Prints who held the lock and when. The
// exit status is 1 if two holders ever overlapped, the shared file was corrupted, or a kill or a take-over did not happen.
import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { PostgresLocker } from "../dist/index.js";
import { PostgresServer } from "../dist/testing/index.js";
import { chart, events, painter, plain } from "./chart.mjs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { corruptionsOf, overlapsOf, takeoversOf, turnsOf } from "./judge.mjs";

const turnsWanted = 24;
const killAfterTurns = [6, 14];
const deadline = 15_000;

const paint = painter(Boolean(process.stdout.isTTY) && !process.env.NO_COLOR);
const key = `demo:${randomBytes(6).toString("hex")}`;
const children = new Set();
const lives = [];
const kills = [];
let directory;
let server;
let cleaning;

/**
 * Runs the demo, and resolves with the exit status. May be called once in a process.
 *
 * @param options.url the database; `undefined`: the demo starts its own PostgreSQL
 * @throws the error that keeps it from running
 */
export async function demo({ url }) {
  directory = mkdtempSync(join(tmpdir(), "pg-locker-demo-"));
  // However this process ends, the children end when their channel closes, and the server's watchdog ends the server.
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
    ["SIGQUIT", 131],
  ]) {
    // A second signal, which npm passes on after the terminal's own, must not interrupt the clean-up.
    process.on(signal, () => void cleanUp().finally(() => process.exit(code)));
  }
  try {
    return await main(url);
  } catch (error) {
    // If a signal ends the demo, its exit status is the signal's, and not this error.
    if (cleaning !== undefined) await new Promise(() => {});
    throw error;
  } finally {
    await cleanUp();
  }
}

async function main(given) {
  const url = given === undefined ? await ownDatabase() : await named(given);
  writeFileSync(join(directory, "counter"), "0");
  console.log(`${paint.bold(`Three processes, one key (${key}), one shared file.`)} Working…\n`);
  const from = now();
  const failure = await compete(url);
  const run = { turns: turnsOf(journal(), kills), lives, from, to: now() };
  const counter = Number(readFileSync(join(directory, "counter"), "utf8"));
  console.log(`${chart(run, paint)}\n\n${events(run, paint)}\n`);
  return verdict(run.turns, counter, failure);
}

/** Checks the named database, so that an unusable one is reported once and not by three processes. */
async function named(url) {
  const locker = new PostgresLocker({ connectionString: url });
  try {
    await locker.ping();
  } finally {
    await locker.close();
  }
  console.log("PostgreSQL: the one that --url or DATABASE_URL names");
  return url;
}

async function ownDatabase() {
  server = await PostgresServer.start();
  console.log(`PostgreSQL ${server.major}, from npm, on 127.0.0.1:${server.port}`);
  return server.url;
}

/** Runs the workers until there were enough turns. Resolves with the reason if that failed. */
function compete(url) {
  return new Promise((resolve) => {
    let turns = 0;
    let stopping = false;
    const stop = (failure) => {
      if (stopping) return;
      stopping = true;
      clearTimeout(timer);
      for (const child of children) if (child.connected) child.send("stop");
      const late = setTimeout(() => {
        for (const child of children) child.kill("SIGKILL");
      }, 5_000);
      const ended = [...children].map((child) => once(child, "exit"));
      void Promise.all(ended).then(() => {
        clearTimeout(late);
        resolve(failure);
      });
    };
    const timer = setTimeout(() => stop(`only ${turns} turns in ${deadline / 1_000} s`), deadline);
    const start = (worker) => {
      const program = fileURLToPath(new URL("worker.mjs", import.meta.url));
      // Passed in the environment, because it may contain a password, and anybody can see a command line.
      const env = { ...process.env, DATABASE_URL: url };
      const child = fork(program, [String(worker), directory, key], { env });
      const life = { worker, from: now(), to: undefined };
      children.add(child);
      lives.push(life);
      let killed = false;
      child.on("message", async ({ failed }) => {
        if (failed !== undefined) return stop(`worker ${worker} failed: ${plain(failed)}`);
        turns += 1;
        if (killAfterTurns.includes(turns)) {
          await delay(70);
          killed = true;
          kills.push({ pid: child.pid, at: now() });
          child.kill("SIGKILL");
        }
        if (turns >= turnsWanted) stop();
      });
      child.on("exit", async (code) => {
        children.delete(child);
        life.to = now();
        if (cleaning !== undefined) return;
        if (!killed && code !== 0) return stop(`worker ${worker} ended with exit code ${code}`);
        // Restarts the worker some time later, as a supervisor would.
        await delay(400);
        if (killed && !stopping) start(worker);
      });
    };
    for (const worker of [1, 2, 3]) start(worker);
  });
}

function journal() {
  return readdirSync(directory)
    .filter((name) => name.startsWith("journal-"))
    .flatMap((name) => readFileSync(join(directory, name), "utf8").split("\n"))
    .filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line))
    .sort((a, b) => a.at - b.at);
}

function verdict(turns, counter, failure) {
  const overlaps = overlapsOf(turns);
  const takeovers = takeoversOf(turns);
  const wrong = [
    ...(failure === undefined ? [] : [failure]),
    ...overlaps.map(
      ({ first, second, milliseconds }) =>
        `worker ${first.worker} and worker ${second.worker} both held for ${milliseconds.toFixed(3)} ms`,
    ),
    ...corruptionsOf(turns, counter),
    ...turns.filter((turn) => turn.ended === "lost").map((turn) => `worker ${turn.worker} lost its lock`),
  ];
  if (takeovers.length !== killAfterTurns.length) {
    wrong.push(`${takeovers.length} holders were killed in mid-work, not ${killAfterTurns.length}`);
  }
  if (takeovers.some(({ next }) => next === undefined)) wrong.push("nobody took over from a killed holder");
  const finished = turns.filter((turn) => turn.wrote !== undefined).length;
  const times = takeovers.map(({ milliseconds }) => `${milliseconds?.toFixed(1) ?? "never"} ms`).join(", ");
  const tell = (name, text) => console.log(`  ${name.padEnd(12)}${text}`);
  tell("turns", `${turns.length}: ${finished} finished, ${takeovers.length} killed in mid-work`);
  tell("take-over", `${times} from the kill to the next holder`);
  tell("counter", `${counter} after ${finished} finished turns`);
  for (const sentence of wrong) tell("WRONG", paint.bad(sentence));
  const summary = `${overlaps.length} overlaps`;
  console.log(
    `\n${wrong.length === 0 ? paint.good(summary) : paint.bad(`${summary}, ${wrong.length} wrong`)}`,
  );
  return wrong.length === 0 ? 0 : 1;
}

/** Milliseconds on the machine's monotonic clock, the same for every process. */
function now() {
  return Number(process.hrtime.bigint()) / 1e6;
}

function cleanUp() {
  cleaning ??= (async () => {
    for (const child of children) child.kill("SIGKILL");
    await Promise.all([...children].map((child) => once(child, "exit")));
    await server?.[Symbol.asyncDispose]();
  })();
  return cleaning;
}
