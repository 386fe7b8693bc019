// Shows that the tests can fail: seeds one defect after the other into a copy of the project, and runs the test that is to catch
// it, which has passed on the unchanged copy first. `npm run mutants`, or `npm run mutants -- <name> …` for some of them. A
// mutant whose place in the source is not found exactly once no longer applies, and is to be rewritten.
import { spawn } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What the tests are and need. The libraries are those of the project itself. */
const copied = ["src", "test", "demo", "examples", "bench", "docs", "package.json", "README.md", "LICENSE"];
const copiedIfThere = ["CHANGELOG.md", "tsconfig.json", "tsconfig.build.json", "vitest.config.ts", "chaos"];

/** A run without an end: more than any of the tests is given. */
const deadline = 180_000;

/**
 * Each replaces `what`, which stands exactly once in the file, by `by`; `test` is the name with those of its groups.
 *
 * What comes out compiles: a defect that the compiler finds needs no test.
 */
const mutants = [
  {
    name: "deadline-from-answer",
    says: "belief counts from the answer instead of the sending",
    file: "src/session.ts",
    what: "done(error ?? undefined, reply, sentAt);",
    by: "done(error ?? undefined, reply, { ...sentAt, ...now() });",
    caughtBy: {
      file: "test/integration/server-ttl.test.ts",
      test: "a holder whose network fails delays every packet: belief counts from the sending, not from the answer",
    },
  },
  {
    name: "no-deadline",
    says: "belief never ends by itself",
    file: "src/held-lock.ts",
    what: "#left(): number {",
    by: "#left(): number {\n    if (this.#ttl > 0) return Number.POSITIVE_INFINITY;",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, dedicated sessions, TTL enforced by the client keeps the contract of a Locker a lock that lapses aborts its signal, and is not held",
    },
  },
  {
    name: "token-without-flush",
    says: "a token's commit waits for the disk only where the server's settings say so",
    file: "src/sql.ts",
    what: "else pg_catalog.set_config('synchronous_commit', 'on', true) is not null end`",
    by: "else true end`",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with dedicated sessions a token is larger after a crash, where the server's commits wait for no disk",
    },
  },
  {
    name: "shared-token-without-flush",
    says: "the same, on a session that carries many locks",
    file: "src/sql-shared.ts",
    what: "{durable}",
    by: "{durable.slice(0, 0)}true",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with shared sessions a token is larger after a crash, where the server's commits wait for no disk",
    },
  },
  {
    name: "token-without-message",
    says: "a token's transaction writes nothing, so that its commit waits for nothing",
    file: "src/sql.ts",
    what: "pg_catalog.pg_logical_emit_message(true, 'pg-locker', '')), 1, 8)",
    by: "pg_catalog.pg_current_wal_lsn()), 1, 8)",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with dedicated sessions a token is larger after a crash, where the server's commits wait for no disk",
    },
  },
  {
    name: "token-without-timeline",
    says: "a token is a transaction id alone",
    file: "src/sql.ts",
    what: "1, 8))::bit(32)::int8 << 48)",
    by: "1, 8))::bit(32)::int8 * 0)",
    caughtBy: {
      file: "test/integration/fencing.test.ts",
      test: "a promoted standby's token is larger than any of the old primary, which goes on; and its table refuses those",
    },
  },
  {
    name: "unlock-answer-ignored",
    says: "a release succeeds, and returns its session, whether the lock was held or not",
    file: "src/dedicated-sessions.ts",
    what: "if (!wasHeld) throw",
    by: "if (wasHeld === undefined) throw",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a release of what the session no longer holds says so, and the session isn't returned",
    },
  },
  {
    name: "session-returned-after-error",
    says: "a session whose try failed goes back to the pool, with a lock that it may have",
    file: "src/dedicated-sessions.ts",
    what: `      // An error says nothing about whether the lock was granted: session locks survive a failed statement.
      session.destroy(error as Error);`,
    by: "      session.return();",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a lock that was granted by a statement which then failed goes with its session",
    },
  },
  {
    name: "no-pid-check",
    says: "a pooler between is not seen",
    file: "src/dedicated-sessions.ts",
    what: 'const announced = pooler === "session" ? undefined',
    by: "const announced = pooler !== undefined ? undefined",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock one that is served by another backend than was announced is refused, with nothing locked",
    },
  },
  {
    name: "no-de-duplication",
    says: "a session that carries many locks is asked again for one that it has, and the server lets it",
    file: "src/shared-sessions.ts",
    what: "if (entry === undefined) return this.#take(request);",
    by: "if (entry === undefined || entry.id === request.id) return this.#take(request);",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, shared sessions, TTL enforced by the client keeps the contract of a Locker a held key is refused, and tryAcquire answers undefined",
    },
  },
  {
    name: "no-reentrancy-check",
    says: "whoever waits for what it holds itself waits for ever",
    file: "src/arbiter.ts",
    what: "if (wait > 0 && !reentrant) return",
    by: "if (wait > 0) return",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, dedicated sessions, TTL enforced by the client keeps the contract of a Locker a wait inside withLock for the same key is not waited",
    },
  },
  {
    name: "no-id-collision-check",
    says: "two keys of one id are taken for one key",
    file: "src/held-locks.ts",
    what: "if (lock.key !== key) return lock.key;",
    by: "if (lock.key !== key && lock.id !== id) return lock.key;",
    caughtBy: {
      file: "test/integration/id-collision.test.ts",
      test: "a key whose id another key of the locker has is refused by name",
    },
  },
  {
    name: "ttl-in-a-transaction",
    says: "a lock is taken on a client in a transaction, where the server's TTL does not run",
    file: "src/dedicated-sessions.ts",
    what: "if (session.inTransaction) {",
    by: "if (session.inTransaction && said.granted === null) {",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a client that the pool hands out in a transaction is refused, and nothing is held",
    },
  },
  {
    name: "stale-continuation",
    says: "a late answer to a refresh counts, whatever became of the lock meanwhile",
    file: "src/held-lock.ts",
    what: "if (this.#state !== state) throw this.#notHeld();",
    by: 'if (state.is !== "held") throw this.#notHeld();',
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a refresh whose answer comes when the lock was released meanwhile says so, and revives nothing",
    },
  },
  {
    name: "revived-by-refresh",
    says: "a late answer to a refresh makes a lock held again that was closed meanwhile",
    file: "src/held-lock.ts",
    what: "if (this.#state !== state) throw this.#notHeld();",
    by: "this.#state = state;",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a refresh whose answer comes when the lock was closed meanwhile says so, and revives nothing",
    },
  },
  {
    name: "no-try-after-the-mark",
    says: "a waiter marks after its last try: a release in between is heard by nobody",
    file: "src/listener.ts",
    what: "    this.#parts.onRelease(id);\n",
    by: "",
    caughtBy: {
      file: "test/integration/listener.test.ts",
      test: "no wake-up is lost: released before the mark, the try after it succeeds",
    },
  },
  {
    name: "unwatch-by-anybody",
    says: "a waiter that leaves its line ends the watch of those before it",
    file: "src/waiters.ts",
    what: "if (line.leave(place)) this.#wakeUps.unwatch(id);",
    by: "line.leave(place);\n      this.#wakeUps.unwatch(id);",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a waiter behind the first of its line leaves without an end to the watch, which the first gives up",
    },
  },
  {
    name: "no-turn-taking",
    says: "a busy process never lets others go first",
    file: "src/arbiter.ts",
    what: "if (pause > 0) await pauseFor(pause, signals);",
    by: "if (pause < 0) await pauseFor(pause, signals);",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a process that had a lock sixteen times while others waited tries again only after a pause",
    },
  },
];

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
// Also where this ends by an error. The server of this process is ended with it by a process of its own.
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

/** A test that did not run caught nothing. */
function verdictOf(outcome) {
  if (outcome === "failed") return "caught";
  return outcome === "passed" ? "SURVIVED" : `NOT RUN (${outcome})`;
}

async function copyProject() {
  for (const name of [...copied, ...copiedIfThere]) {
    const from = join(root, name);
    if (copiedIfThere.includes(name) && !existsSync(from)) continue;
    await cp(from, join(copy, name), { recursive: true });
  }
  await symlink(join(root, "node_modules"), join(copy, "node_modules"));
}

/** The file's text with the defect. */
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

/** Runs tests in the copy; the answer tells of each how it ended: `passed`, `failed`, or why neither. */
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
    // The file more than once, where the suite runs it in several projects.
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
    // Without PG_MAJOR, DATABASE_URL says it all: the server is of the default major.
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

/** With all that it started: it leads a group of its own. */
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
