import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { advisoryLocks, connect, databaseUrl, onServer } from "../support/database.ts";
import { freePort } from "../support/free-port.ts";
import { InstalledPackage } from "../support/installed-package.ts";
import { createLocker } from "../support/locker.ts";
import { snippetsOf } from "../support/snippets.ts";
import { until } from "../support/until.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const pages = (await readdir(join(root, "docs/recipes")))
  .filter((name) => !["README.md", "orm.md"].includes(name)) // orm.test.ts tests that one.
  .map((name) => name.replace(/\.md$/, ""));
let installed: InstalledPackage;

// As for a user: the frameworks in their current major versions, and each page's files as they are shown, compiled strictly.
beforeAll(async () => {
  installed = await InstalledPackage.of("recipes");
  for (const page of pages) {
    for (const { title, code } of await snippetsOf(`docs/recipes/${page}.md`)) {
      if (title === undefined) continue;
      const file = join(installed.folder, "pages", page, title);
      await mkdir(dirname(file), { recursive: true });
      await writeFile(file, code);
    }
  }
  await installed.compile();
}, 240_000);

afterAll(() => installed?.[Symbol.asyncDispose](), 60_000);

/** Runs a page's program until it ends, and returns what it printed. */
async function run(program: string, env: Record<string, string> = {}): Promise<string> {
  const { stdout } = await installed.node([join("out", program)], { DATABASE_URL: databaseUrl(), ...env });
  return stdout;
}

/** Runs code that imports a page's modules from `page`, the address of its folder. */
async function evaluate(page: string, lines: string): Promise<string> {
  const folder = pathToFileURL(join(installed.folder, "out", page)).href;
  const script = `const page = ${JSON.stringify(folder)};\n${lines}`;
  const { stdout } = await installed.node(["--input-type=module", "--eval", script], {
    DATABASE_URL: databaseUrl(),
  });
  return stdout.trim();
}

/** Starts a page's program, which runs until it is told to stop. */
function start(program: string, env: Record<string, string> = {}): Child {
  const from = join(root, "test/support/programs");
  const path = relative(from, join(installed.folder, "out", program));
  return Child.start(path, { env: { DATABASE_URL: databaseUrl(), ...env } });
}

async function printed(child: Child, text: string): Promise<void> {
  const seen = () => child.stderr.includes(text);
  await until(seen, { deadline: 15_000, what: text }).catch((error: Error) => {
    throw new Error(`${error.message}: ${child.stderr}`);
  });
}

/** Ends it in the way that a deployment does. */
async function stop(child: Child): Promise<void> {
  child.signal("SIGTERM");
  expect(await child.exited, child.stderr).toEqual({ code: 0, signal: null });
}

test("the list has every recipe, and no other", async () => {
  const list = await readFile(join(root, "docs/recipes/README.md"), "utf8");
  const linked = [...list.matchAll(/\]\(([\w-]+)\.md\)/g)].map(([, name]) => name);
  expect(linked.sort()).toEqual([...pages, "orm"].sort());
});

test("NestJS: the module injects a locker, and closes it with the application", async () => {
  expect(await run("nestjs/main.js")).toBe("writing the report\ntrue\n");
});

describe.each(["fastify", "express"])("%s", (page) => {
  test('a key that is held answers "come again"; the server ends on SIGTERM', async () => {
    const port = await freePort();
    await using child = start(`${page}/server.js`, { PORT: String(port) });
    const pay = (id: number) => fetch(`http://localhost:${port}/invoices/${id}/pay`, { method: "POST" });
    const paid = await until(() => pay(1).catch(() => undefined), { deadline: 15_000 });
    expect(await paid.json()).toEqual({ paid: "1" });
    await using locker = createLocker();
    await using _ = await locker.acquire("invoice:2", { autoRefresh: true });
    const refused = await pay(2);
    expect(refused.status).toBe(423);
    expect(refused.headers.get("retry-after")).toBe("1");
    await refused.text();
    await stop(child);
  });

  test("a client that leaves while it waits leaves no waiter, and prints no error", async () => {
    const port = await freePort();
    await using child = start(`${page}/server.js`, { PORT: String(port), NODE_ENV: "production" });
    const pay = (id: number, signal?: AbortSignal) =>
      fetch(`http://localhost:${port}/invoices/${id}/pay`, { method: "POST", ...(signal && { signal }) });
    await until(() => pay(1).catch(() => undefined), { deadline: 15_000 });
    await using locker = createLocker();
    await using _ = await locker.acquire("invoice:3", { autoRefresh: true });
    const waits = async () => (await advisoryLocks()).some(({ granted }) => !granted);
    const leaving = new AbortController();
    const gone = pay(3, leaving.signal).catch(() => "gone");
    await until(waits);
    leaving.abort();
    expect(await gone).toBe("gone");
    await until(async () => !(await waits()));
    expect((await pay(1)).status).toBe(200);
    await stop(child);
    expect(child.stderr).toBe("");
  });
});

test("Next.js: a module that is evaluated again has the same locker", async () => {
  const lines = `
    const first = await import(page + "/locker.js?first");
    const second = await import(page + "/locker.js?second");
    const { POST } = await import(page + "/route.js");
    const free = await POST();
    const lock = await first.locker.acquire("report");
    const held = await POST();
    await lock.release();
    await first.locker.close();
    console.log(first !== second, first.locker === second.locker, free.status, held.status);`;
  expect(await evaluate("nextjs", lines)).toBe("true true 200 423");
});

/** Connects to a database that has the tables of docs/recipes/cron.md, which are empty. */
async function withCronTables(): ReturnType<typeof connect> {
  const client = await connect();
  await client.query("drop table if exists cron_runs, reports");
  await client.query("create table cron_runs (job text, tick timestamptz, primary key (job, tick))");
  await client.query("create table reports (tick timestamptz)");
  return client;
}

test("cron: each tick is done once by two replicas, with its work", async () => {
  const client = await withCronTables();
  const ticks = async () => (await client.query("select tick from reports order by tick")).rows;
  await using one = start("cron/cron.js", { SCHEDULE: "* * * * * *" });
  await using two = start("cron/cron.js", { SCHEDULE: "* * * * * *" });
  await until(async () => (await ticks()).length >= 3, { deadline: 15_000 });
  await Promise.all([stop(one), stop(two)]);
  const done = (await ticks()).map(({ tick }) => (tick as Date).getTime());
  expect(done).toEqual([...new Set(done)]);
  expect(await client.query("select from cron_runs")).toMatchObject({ rowCount: done.length });
  expect(one.stderr + two.stderr).toBe("");
});

test("cron: a run that begins late has the tick of the schedule", async () => {
  const client = await withCronTables();
  // Blocks the event loop from shortly before each tick of the schedule until 1.2 s after it.
  const busy = `
    const at = () => Date.now() % 3000;
    setInterval(() => { if (at() > 2500) while (at() > 2500 || at() < 1200); }, 10).unref();`;
  await using late = start("cron/cron.js", {
    SCHEDULE: "*/3 * * * * *",
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(busy)}`,
  });
  const ticks = async () =>
    (await client.query("select extract(epoch from tick)::int % 3 as late from reports")).rows;
  await until(async () => (await ticks()).length > 0, { deadline: 15_000 });
  await stop(late);
  expect(await ticks()).toEqual((await ticks()).map(() => ({ late: 0 })));
});

test("migration: one of three replicas migrates, and the others find nothing to do", async () => {
  const said = await Promise.all([1, 2, 3].map(() => run("migration/migrate.js")));
  expect(said.sort()).toEqual(["migrated\n", "nothing to do\n", "nothing to do\n"]);
});

test("BullMQ: a job runs under its customer's lock", async () => {
  await using locker = createLocker();
  const lock = await locker.acquire("customer:acme", { autoRefresh: true });
  await using child = start("bullmq/worker.js");
  const lines = `
    import { createPostgresBackend, Queue } from "bullmq";
    const connection = { connectionString: process.env.DATABASE_URL, migrate: true };
    const queue = new Queue("invoices", { connection }, createPostgresBackend);
    await queue.add("pay", { customer: "acme" });
    await queue.add("pay", { customer: "other" });
    await queue.close();`;
  await evaluate("bullmq", lines);
  await printed(child, "working for other");
  expect(child.stderr).not.toContain("working for acme");
  await lock.release();
  await printed(child, "working for acme");
  await stop(child);
});

test("Kubernetes: a replica hands over when told to stop, and its probe tells health", async () => {
  const ports = [await freePort(), await freePort()];
  await using one = start("kubernetes/server.js", { PORT: String(ports[0]) });
  await printed(one, "working");
  await using two = start("kubernetes/server.js", { PORT: String(ports[1]) });
  const probe = () => fetch(`http://localhost:${ports[1]}/`, { headers: { connection: "close" } });
  const ready = await until(() => probe().catch(() => undefined), { deadline: 15_000 });
  expect(ready.status).toBe(200);
  await stop(one);
  await printed(two, "working");
  await stop(two);
});

test("AWS Lambda: each call takes the lock, and leaves no connection for the freeze", async () => {
  const lines = `
    const { handler } = await import(page + "/handler.js");
    const context = { getRemainingTimeInMillis: () => 30_000 };
    console.log(await handler({}, context), await handler({}, context));
    const busy = { getRemainingTimeInMillis: () => 1_200 };
    await handler({}, busy).catch(({ name }) => console.log(name));`;
  await using locker = createLocker();
  expect(await evaluate("lambda", lines.replace(/\n.*busy.*/g, ""))).toBe("done done");
  await using _ = await locker.acquire("nightly", { autoRefresh: true });
  expect(await evaluate("lambda", lines.replace(/\n.*console.log\(await.*/, ""))).toBe("TimeoutError");
  const sessions = await onServer(
    "select from pg_stat_activity where datname = $1 and application_name like 'pg-locker%'",
    [new URL(databaseUrl()).pathname.slice(1)],
  );
  expect(sessions).toHaveLength(1); // The session that holds the lock above.
});

test.each(["supabase", "neon", "rds"])("%s: the page's own lines run", async (page) => {
  expect(await run(`${page}/${page}.js`)).toContain("nobody else is writing the report");
});
