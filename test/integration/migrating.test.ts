import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect as connectTo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { connect, databaseUrl, uniqueKey } from "../support/database.ts";
import { freePort } from "../support/free-port.ts";
import { InstalledPackage } from "../support/installed-package.ts";
import { snippetsOf } from "../support/snippets.ts";
import { until } from "../support/until.ts";

const page = "docs/migrating.md";
const modules = (await snippetsOf(page)).filter(({ title }) => title !== undefined);
const hasRedis = spawnSync("redis-server", ["--version"]).status === 0;
let installed: InstalledPackage;

beforeAll(async () => {
  installed = await InstalledPackage.of("migrating");
  for (const { title, code } of modules) await writeFile(join(installed.folder, title ?? ""), code);
}, 120_000);

afterAll(() => installed?.[Symbol.asyncDispose]());

beforeEach(async () => {
  const client = await connect();
  await client.query(`
    drop table if exists inside, turns, account, locks;
    create table inside (key text primary key, stage text);
    create table turns (key text, stage text);
    create table account (id text primary key);
    create table locks (key text primary key, owner uuid, expires_at timestamptz)`);
});

/** Runs two stages at the same time, each in a process: each takes all its turns, and nobody is ever inside with another. */
async function beside(module: string, stages: readonly string[], env: Record<string, string>): Promise<void> {
  const client = await connect();
  const key = uniqueKey();
  await client.query("insert into account values ($1)", [key]);
  const variables = { DATABASE_URL: databaseUrl(), KEY: key, ...env };
  await Promise.all(
    stages.map((stage) => installed.node(["stage.mjs", `./${module}`, stage, "5"], variables)),
  );
  const turns = "select stage, count(*)::int from turns where key = $1 group by stage order by stage";
  const { rows } = await client.query(turns, [key]);
  expect(rows).toEqual([...stages].sort().map((stage) => ({ stage, count: 5 })));
}

describe("old and new side by side", () => {
  const all = modules.map(({ title = "" }) => title).filter((title) => title !== "redlock.mjs");

  test("the page has all that it promises", async () => {
    const text = await readFile(fileURLToPath(new URL(`../../${page}`, import.meta.url)), "utf8");
    for (const name of ["redlock", "advisory-lock", "pg-mutex-lock", "@verrou/core", "A table of locks"]) {
      expect(text).toMatch(new RegExp(`^## ${name}`, "m"));
    }
    expect(all).toHaveLength(6);
  });

  test.each(all.filter((title) => title !== "by-hand.mjs"))(
    "%s: before beside both, both beside after",
    async (module) => {
      await beside(module, ["before", "both"], {});
      await beside(module, ["both", "after"], {});
    },
    60_000,
  );

  test("by-hand.mjs: before beside after, for they are the same lock", async () => {
    await beside("by-hand.mjs", ["before", "after"], {});
  }, 60_000);

  test("a holder that overlaps with another is noticed", async () => {
    const client = await connect();
    await client.query("insert into inside values ('taken', 'another')");
    const env = { DATABASE_URL: databaseUrl(), KEY: "taken" };
    const running = installed.node(["stage.mjs", "./table.mjs", "after", "1"], env);
    await expect(running).rejects.toThrow(/duplicate key/);
  });

  test.skipIf(!hasRedis)(
    "redlock.mjs: before beside both, both beside after (needs redis-server)",
    async () => {
      await using redis = await startRedis();
      await beside("redlock.mjs", ["before", "both"], { REDIS_URL: redis.url });
      await beside("redlock.mjs", ["both", "after"], { REDIS_URL: redis.url });
    },
    60_000,
  );
});

test("verrou: after the TTL, a release is refused only once somebody else has the lock", async () => {
  const script = `
    import { setTimeout as delay } from "node:timers/promises";
    import { Verrou } from "@verrou/core";
    import { knexStore } from "@verrou/core/drivers/knex";
    import createKnex from "knex";
    const knex = createKnex({ client: "pg", connection: process.env.DATABASE_URL });
    const verrou = new Verrou({ default: "db", stores: { db: { driver: knexStore({ connection: knex }) } } });
    const late = (ttl, meanwhile) =>
      verrou.createLock(process.env.KEY, ttl).run(async () => { await delay(100); await meanwhile(); return "done"; });
    console.log(await late("10ms", () => {}));
    const other = verrou.createLock(process.env.KEY, "1m");
    console.log(await late("10ms", () => other.acquire()).catch(({ code }) => code));
    await other.release();
    await knex.destroy();`;
  const env = { DATABASE_URL: databaseUrl(), KEY: uniqueKey() };
  const { stdout } = await installed.node(["--input-type=module", "--eval", script], env);
  expect(stdout).toBe("[ true, 'done' ]\nE_LOCK_NOT_OWNED\n");
});

async function startRedis(): Promise<AsyncDisposable & { url: string }> {
  const folder = await mkdtemp(join(tmpdir(), "pg-locker-redis-"));
  const port = await freePort();
  const server = spawn(
    "redis-server",
    ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
    { stdio: "ignore" },
  );
  const ended = once(server, "close");
  await until(() => listens(port), { what: "Redis listens" });
  return {
    url: `redis://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: async () => {
      server.kill();
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTo(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
