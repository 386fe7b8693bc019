// Shows that the tests can fail: seeds one defect after the other into a copy of the project, and runs the test that should catch it, which
// must first pass on the unchanged copy. `node scripts/mutants.mjs`, or with the names of some mutants. A mutant whose place in the source
// is not found exactly once no longer applies and must be rewritten.
import { spawn } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { mutants } from "./seeded-defects.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The files that the tests need. The installed packages are those of the project itself. */
const copied = ["src", "test", "demo", "examples", "bench", "docs", "package.json", "README.md", "LICENSE"];
const copiedIfThere = ["CHANGELOG.md", "tsconfig.json", "tsconfig.build.json", "vitest.config.ts", "chaos"];

/** Milliseconds after which a run counts as hanging: more than any test may take. */
const deadline = 180_000;

const asked = process.argv.slice(2);
const names = mutants.map(({ name }) => name);
const unknown = asked.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`Expected names out of ${names.join(", ")}, got ${unknown.join(", ")}`);
  process.exit(2);
}
const chosen = mutants.filter(({ name }) => asked.length === 0 || asked.includes(name));

const folder = await mkdtemp(join(tmpdir(), "pg-locker-mutants-"));
const copy = join(folder, "project");
const report = join(folder, "report.json");
let running;
// Also if this process ends by an error. A separate process ends this process's server.
process.on("exit", () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
for (const [signal, number] of [
  ["SIGINT", 2],
  ["SIGTERM", 15],
  ["SIGHUP", 1],
]) {
  process.on(signal, () => {
    endRunning();
    process.exit(128 + number);
  });
}

const rows = [];
await copyProject();
for (const mutant of chosen) mutant.source = await mutated(mutant);
await build("the unchanged copy");
const { PostgresServer } = await import(pathToFileURL(join(copy, "dist/testing/index.js")));
const server = await PostgresServer.start();

// Once more than needed would be no control: each test that is to fail has to be seen to pass.
console.log(`control: ${chosen.length} mutants, their tests on the unchanged copy`);
const control = await run(chosen.map(({ caughtBy }) => caughtBy));
const failed = chosen.filter(({ caughtBy }) => control(caughtBy) !== "passed");
for (const { caughtBy } of failed) {
  console.log(`control FAILED: ${caughtBy.file} > ${caughtBy.test}: ${control(caughtBy)}`);
}

for (const mutant of failed.length > 0 ? [] : chosen) {
  const { name, says, file, source, caughtBy } = mutant;
  console.log(`${name}: ${says}`);
  const original = await readFile(join(copy, file), "utf8");
  await writeFile(join(copy, file), source);
  await build(`the mutant ${name}`);
  const outcome = (await run([caughtBy]))(caughtBy);
  await writeFile(join(copy, file), original);
  rows.push({ name, file, caughtBy: `${caughtBy.file} > ${caughtBy.test}`, verdict: verdictOf(outcome) });
}

await server[Symbol.asyncDispose]();
await rm(folder, { recursive: true, force: true });
printTable(rows);
const caught = rows.filter(({ verdict }) => verdict === "caught").length;
console.log(`${caught} of ${chosen.length} caught`);
process.exit(caught === chosen.length ? 0 : 1);

/** The verdict on a mutant. A test that did not run caught nothing. */
function verdictOf(outcome) {
  if (outcome === "failed") return "caught";
  return outcome === "passed" ? "SURVIVED" : `NOT RUN (${outcome})`;
}

async function copyProject() {
  for (const name of [...copied, ...copiedIfThere]) {
    const from = join(root, name);
    if (copiedIfThere.includes(name) && !existsSync(from)) continue;
    await cp(from, join(copy, name), { recursive: true, filter: (path) => !path.endsWith("node_modules") });
  }
  await symlink(join(root, "node_modules"), join(copy, "node_modules"));
}

/** The text of the file with the defect. */
async function mutated({ name, file, what, by }) {
  const text = await readFile(join(copy, file), "utf8");
  const found = text.split(what).length - 1;
  if (found !== 1) {
    console.error(`The mutant ${name} no longer applies: ${found} times in ${file}, expected once:\n${what}`);
    process.exit(2);
  }
  return text.replace(what, () => by);
}

async function build(what) {
  const { status, output } = await start(["npx", "tsc", "-p", "tsconfig.build.json"]);
  if (status === 0) return;
  console.error(`${what} does not compile:\n${output}`);
  process.exit(2);
}

/** Runs tests in the copy. Returns for each how it ended: `passed`, `failed`, or why it did neither. */
async function run(tests) {
  await rm(report, { force: true });
  const files = [...new Set(tests.map(({ file }) => file))];
  const pattern = [...new Set(tests.map(({ test }) => escaped(test)))].join("|");
  const { output } = await start(
    ["npx", "vitest", "run", ...files, "-t", pattern, "--reporter=json", `--outputFile=${report}`],
    { DATABASE_URL: server.url },
  );
  const text = await readFile(report, "utf8").catch(() => undefined);
  if (text === undefined) return () => `no report:\n${output.slice(-2_000)}`;
  const { testResults } = JSON.parse(text);
  return ({ file, test }) => {
    const ofFile = testResults.filter(({ name }) => name.endsWith(`/${file}`));
    const results = ofFile.flatMap(({ assertionResults }) => assertionResults);
    const statuses = results.filter(({ fullName }) => fullName === test).map(({ status }) => status);
    if (statuses.includes("failed")) return "failed";
    return statuses[0] ?? `no such test; ${ofFile[0]?.message || "its file did not run"}`;
  };
}

/** Runs a command in the copy. */
function start([command, ...args], env = {}) {
  return new Promise((resolve, reject) => {
    // Without PG_MAJOR, the server in DATABASE_URL counts as one of the default major version.
    const { PG_MAJOR: _, ...inherited } = process.env;
    const child = spawn(command, args, { cwd: copy, env: { ...inherited, ...env }, detached: true });
    const overdue = setTimeout(endRunning, deadline);
    running = child;
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    child.on("error", reject);
    child.on("close", (status) => {
      clearTimeout(overdue);
      running = undefined;
      resolve({ status, output });
    });
  });
}

/** Ends the running command with all its children: it leads its own process group. */
function endRunning() {
  if (running?.pid === undefined) return;
  try {
    process.kill(-running.pid, "SIGKILL");
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

function escaped(text) {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}

function printTable(rows) {
  const head = { name: "mutant", file: "where", verdict: "verdict", caughtBy: "caught by" };
  const columns = ["name", "file", "verdict", "caughtBy"];
  const widths = columns.map((column) => Math.max(...[head, ...rows].map((row) => row[column].length)));
  for (const row of [head, ...rows]) {
    console.log(
      columns
        .map((column, at) => row[column].padEnd(widths[at]))
        .join("  ")
        .trimEnd(),
    );
  }
}
