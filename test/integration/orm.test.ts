import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type * as PgLocker from "../../src/index.ts";
import type { TransactionClient } from "../../src/index.ts";
import type { OpenTransaction, Orm } from "../packages/orm/orm.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  terminateHolder,
  uniqueKey,
} from "../support/database.ts";
import { InstalledPackage } from "../support/installed-package.ts";
import { type Snippet, snippetsOf } from "../support/snippets.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, written } from "../support/written-table.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** The exports of the ORMs' programs. */
const { lockId, PostgresLocker } = (await import(
  pathToFileURL(join(root, "dist/index.js")).href
)) as typeof PgLocker;
let installed: InstalledPackage;

// The current major versions of the ORMs, and programs that use them as users do, compiled strictly.
beforeAll(async () => {
  installed = await InstalledPackage.of("orm");
  // Prisma would download a program for migrations, which nothing here uses: it is told that it is there.
  const env = { PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: "1" };
  await installed.node(["node_modules/prisma/build/index.js", "generate"], env);
  for (const { title, code } of await page()) {
    await writeFile(join(installed.folder, `page-${title}.ts`), code);
  }
  await installed.compile();
}, 300_000);

afterAll(() => installed?.[Symbol.asyncDispose](), 60_000);

/** The files that docs/recipes/orm.md shows. */
async function page(): Promise<Snippet[]> {
  return (await snippetsOf("docs/recipes/orm.md")).filter(({ title }) => title !== undefined);
}

emptyWrittenTable();

async function programOf<T>(name: string): Promise<T> {
  return (await import(pathToFileURL(join(installed.folder, "out", `${name}.js`)).href)) as T;
}

/** Resolves when somebody waits for a lock in the server. */
async function waits(): Promise<boolean> {
  return (await advisoryLocks()).some(({ granted }) => !granted);
}

type Open = (url: string) => Orm | Promise<Orm>;

const orms = [
  ["kysely", "open"],
  ["kysely", "openControlled"],
  ["knex", "open"],
  ["knex", "openObjection"],
  ["postgres-js", "open"],
  ["drizzle", "open"],
  ["drizzle", "openOnPostgresJs"],
  ["prisma", "open"],
  ["typeorm", "open"],
  ["typeorm", "openQueryRunner"],
  ["sequelize", "open"],
  ["mikro-orm", "open"],
] as const;

describe.each(orms)("withTransaction in a transaction of %s (%s)", (name, opener) => {
  let orm: Orm;

  beforeAll(async () => {
    const program = await programOf<Record<string, Open>>(name);
    orm = await (program[opener] as Open)(databaseUrl());
  });

  afterAll(() => orm?.end());

  /** Two lockers: one holds, the other is elsewhere. */
  const lockers = () => ({
    locker: new PostgresLocker({ pool: createPool() }),
    elsewhere: new PostgresLocker({ pool: createPool() }),
    key: uniqueKey(),
  });

  test("commits what was written under the lock, which nobody else has meanwhile", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    await orm.transaction(async ({ client, write }) => {
      const answer = await locker.withTransaction(
        key,
        async () => {
          await write("one");
          expect(await elsewhere.tryAcquire(key)).toBeUndefined();
          return 42;
        },
        { client },
      );
      expect(answer).toBe(42);
      expect(await holdersOf(lockId(0, key))).toHaveLength(1);
      expect(await elsewhere.tryAcquire(key)).toBeUndefined();
      expect(await written()).toEqual([]);
    });
    expect(await written()).toEqual(["one"]);
    await (await elsewhere.acquire(key)).release();
  });

  test("writes nothing if the lock is held elsewhere, and leaves it usable", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const lock = await elsewhere.acquire(key);
    await orm.transaction(async ({ client, write }) => {
      const refused = locker.withTransaction(key, () => write("one"), { client });
      await expect(refused).rejects.toMatchObject({ code: "LOCK_NOT_ACQUIRED", reason: "held" });
      await write("without it");
    });
    await lock.release();
    expect(await written()).toEqual(["without it"]);
  });

  test("waits for the holder", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const lock = await elsewhere.acquire(key);
    const working = orm.transaction(({ client, write }) =>
      locker.withTransaction(key, async () => void (await write("one")), { client, wait: "15s" }),
    );
    await until(waits);
    await lock.release();
    await working;
    expect(await written()).toEqual(["one"]);
  });

  test("a wait that is aborted leaves the transaction usable, and no lock in it", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const lock = await elsewhere.acquire(key);
    const reason = new Error("the caller's own");
    const aborting = new AbortController();
    const working = orm.transaction(async ({ client, write }) => {
      const options = { client, wait: true, signal: aborting.signal } as const;
      await expect(locker.withTransaction(key, () => write("one"), options)).rejects.toBe(reason);
      await write("without it");
    });
    await until(waits);
    aborting.abort(reason);
    await working;
    await lock.release();
    expect(await written()).toEqual(["without it"]);
  });

  test("of two locks asked for at once, a refusal of one keeps the other", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const held = await elsewhere.acquire(uniqueKey());
    await orm.transaction(async ({ client, again, write }) => {
      const taken = locker.withTransaction(key, () => {}, { client });
      const refused = locker.withTransaction(held.key, () => write("two"), { client: again() });
      const [first, second] = await Promise.allSettled([taken, refused]);
      expect(first).toMatchObject({ status: "fulfilled" });
      expect(second).toMatchObject({ reason: { code: "LOCK_NOT_ACQUIRED" } });
      expect(await elsewhere.tryAcquire(key)).toBeUndefined();
      await write("one");
    });
    await held.release();
    expect(await written()).toEqual(["one"]);
  });

  test("rolls back with the ORM's transaction, and the lock is free", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const error = new Error("its own");
    const failing = orm.transaction(({ client, write }) =>
      locker.withTransaction(
        key,
        async () => {
          await write("one");
          throw error;
        },
        { client },
      ),
    );
    await expect(failing).rejects.toBe(error);
    expect(await written()).toEqual([]);
    await (await elsewhere.acquire(key)).release();
  });

  test("a lock that was taken in a savepoint goes with what was written in it", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    const other = uniqueKey();
    await orm.transaction(async ({ client, write, nested }) => {
      await locker.withTransaction(key, () => write("outer"), { client });
      const failing = nested(async (inner) => {
        await locker.withTransaction(other, () => inner.write("inner"), { client: inner.client });
        expect(await elsewhere.tryAcquire(other)).toBeUndefined();
        throw new Error("its own");
      });
      await expect(failing).rejects.toThrow("its own");
      expect(await elsewhere.tryAcquire(key)).toBeUndefined();
      await (await elsewhere.acquire(other)).release();
    });
    expect(await written()).toEqual(["outer"]);
  });

  test("a lock taken in a kept savepoint lasts as long as the transaction", async () => {
    const { locker, elsewhere, key } = lockers();
    await using _ = locker;
    await using __ = elsewhere;
    await orm.transaction(async ({ nested }) => {
      await nested(async (inner) => {
        await locker.withTransaction(key, () => inner.write("inner"), { client: inner.client });
      });
      expect(await elsewhere.tryAcquire(key)).toBeUndefined();
      expect(await written()).toEqual([]);
    });
    expect(await written()).toEqual(["inner"]);
    await (await elsewhere.acquire(key)).release();
  });

  test("says what was expected if it isn't given a transaction", () => {
    for (const [what, mistake] of Object.entries(orm.mistakes)) {
      expect(mistake, what).toThrow(/^Expected `transaction` to be the /);
      expect(mistake, what).toThrow(
        expect.objectContaining({ code: "INVALID_CONFIG", field: "transaction" }),
      );
    }
  });

  // With or without a lock: a statement of postgres.js after the end of its session ends the process, and MikroORM never closes.
  test.skipIf(name === "postgres-js" || opener === "openOnPostgresJs" || name === "mikro-orm")(
    "a session that ends takes the lock with it, but not the process",
    async () => {
      const { locker, elsewhere, key } = lockers();
      await using _ = locker;
      await using __ = elsewhere;
      const failing = orm.transaction(({ client, write }) =>
        locker.withTransaction(
          key,
          async () => {
            await terminateHolder(lockId(0, key));
            await (await elsewhere.acquire(key, { wait: "15s" })).release();
            await write("one");
          },
          { client },
        ),
      );
      await expect(failing).rejects.toThrow();
      expect(await written()).toEqual([]);
      await orm.transaction(async ({ write }) => void (await write("the next")));
      expect(await written()).toEqual(["the next"]);
    },
  );

  test("a statement that fails has the server's code, and the end of the lock is told", async () => {
    const { locker, key } = lockers();
    await using _ = locker;
    let told: unknown;
    const running = orm.transaction(async ({ client }) => {
      const failing = () =>
        expect(client.query("select 1 / 0")).rejects.toMatchObject({
          code: "22012",
          message: "division by zero",
        });
      told = await locker.withTransaction(key, failing, { client }).catch((error: unknown) => error);
    });
    await running.catch(() => {}); // Some ORMs can't commit it.
    expect(told).toMatchObject({ code: "DATABASE_ERROR" });
    expect(String(told)).toContain("a statement of the transaction had failed, which ended the lock");
  });

  test("a transaction that has ended is refused, and nothing is run", async () => {
    const { locker, key } = lockers();
    await using _ = locker;
    let ended: OpenTransaction | undefined;
    await orm.transaction(async (transaction) => {
      ended = transaction;
    });
    const refused = locker.withTransaction(key, () => expect.unreachable(), {
      client: ended?.client as TransactionClient,
    });
    await expect(refused).rejects.toMatchObject({ code: "INVALID_CONFIG" });
    await expect(refused).rejects.toThrow(
      /transaction.*, but (it has been committed or rolled back|.* is in none)$/,
    );
    expect(await advisoryLocks()).toEqual([]);
  });

  test("a function that commits the transaction too early is told so", async () => {
    const { locker, key } = lockers();
    await using _ = locker;
    let told: { code?: string; message?: string } | undefined;
    const running = orm.transaction(async ({ client, write, commitEarly }) => {
      const committing = async () => {
        await write("one");
        await commitEarly();
      };
      told = await locker.withTransaction(key, committing, { client }).then(
        () => new Error("told nothing"),
        (error: Error) => error,
      );
    });
    await running.catch(() => {}); // Some ORMs commit once more.
    await until(() => told);
    expect(told?.code).toMatch(/^(DATABASE_ERROR|INVALID_CONFIG)$/);
    expect(told?.message).toMatch(/had ended the transaction itself|has been committed or rolled back/);
    expect(await advisoryLocks()).toEqual([]);
  });
});

describe("an ORM on the client of the locker's own transaction", () => {
  type Run = (locker: PgLocker.PostgresLocker, key: string) => Promise<void>;
  test("writes in it", async () => {
    const { inTheLockers } = await programOf<{ inTheLockers: Run; nestedInTheLockers: Run }>("drizzle");
    await using locker = new PostgresLocker({ pool: createPool() });
    await inTheLockers(locker, uniqueKey());
    expect(await written()).toEqual(["outer"]);
  });

  test("is detected if its nested transaction commits the one around it", async () => {
    const { nestedInTheLockers } = await programOf<{ inTheLockers: Run; nestedInTheLockers: Run }>("drizzle");
    await using locker = new PostgresLocker({ pool: createPool() });
    await expect(nestedInTheLockers(locker, uniqueKey())).rejects.toThrow(
      "the function had ended the transaction itself, and so the lock",
    );
  });
});

test.each([
  ["knex", "open"],
  ["postgres-js", "open"],
  ["drizzle", "open"],
  ["drizzle", "openOnPostgresJs"],
  ["typeorm", "open"],
  ["sequelize", "open"],
] as const)("several statements in one text return the last one's rows: %s (%s)", async (name, opener) => {
  const orm = await ((await programOf<Record<string, Open>>(name))[opener] as Open)(databaseUrl());
  try {
    await orm.transaction(async ({ client }) => {
      const { rows } = await client.query("select 1 as one; select 2 as two");
      expect(rows.map((row) => Object.values(row))).toEqual([[2]]);
    });
  } finally {
    await orm.end();
  }
});

test.each([
  ["mikro-orm", "MikroORM 7's `em.transactional(…)`"],
  ["sequelize", "Sequelize 6's `sequelize.transaction(…)`"],
] as const)("an adapter for one major version of %s names that version", async (name, wants) => {
  const orm = await (await programOf<{ open: Open }>(name)).open(databaseUrl());
  expect(orm.mistakes["undefined"]).toThrow(wants);
  await orm.end();
});

test("a Sequelize itself as the client is refused", async () => {
  type Itself = (url: string) => TransactionClient & { close(): Promise<void> };
  const client = (await programOf<{ itself: Itself }>("sequelize")).itself(databaseUrl());
  await using locker = new PostgresLocker({ pool: createPool() });
  try {
    const refused = locker.withTransaction(uniqueKey(), () => expect.unreachable(), { client });
    await expect(refused).rejects.toMatchObject({ code: "INVALID_CONFIG", field: "client" });
  } finally {
    await client.close();
  }
});

test("what Prisma says about the end of its transaction is the cause", async () => {
  const prisma = await (await programOf<{ open: Open }>("prisma")).open(databaseUrl());
  try {
    let ended: TransactionClient | undefined;
    await prisma.transaction(async ({ client }) => {
      ended = client;
    });
    await expect(ended?.query("select 1")).rejects.toMatchObject({
      code: "INVALID_CONFIG",
      cause: { code: "P2028" },
    });
  } finally {
    await prisma.end();
  }
});

test("the page's own lines run as they are printed", async () => {
  const titles = (await page()).map(({ title }) => title);
  expect(titles).toEqual(["kysely", "prisma", "drizzle"]);
  for (const title of titles) await installed.node([`out/page-${title}.js`], { DATABASE_URL: databaseUrl() });
  expect(await written()).toEqual(["by Drizzle", "by Prisma", "in the locker's", "under the lock"]);
});
