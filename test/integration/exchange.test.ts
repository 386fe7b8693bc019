import type pg from "pg";
import { expect, test, vi } from "vitest";
import { DatabaseError } from "../../src/index.ts";
import { statement } from "../../src/postgres/driver.ts";
import { arrayOf, Exchange, type Reply, type Value } from "../../src/postgres/exchange.ts";
import { Session } from "../../src/postgres/session.ts";
import { connect, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";

// One statement and its answer, sent past the driver's own query.

const ask = (client: pg.Client, text: string, values: Value[] = [], name?: string): Promise<Reply> =>
  new Promise((resolve, reject) => {
    class Asked extends Exchange {
      override replied({ value, tag }: Reply): void {
        resolve({ value, tag });
      }
      override failed(error: unknown): void {
        reject(error);
      }
    }
    new Asked().submitTo(client, statement(text, name), values);
  });

test("an exchange returns the first value of a row as text, and the command tag", async () => {
  const client = await connect();
  expect(await ask(client, "select $1::int8 + 1, 'x'", ["41"])).toEqual({ value: "42", tag: "SELECT 1" });
  expect(await ask(client, "select null")).toEqual({ value: null, tag: "SELECT 1" });
  expect(await ask(client, "select 1 where false")).toEqual({ value: undefined, tag: "SELECT 0" });
  expect(await ask(client, "begin")).toEqual({ value: undefined, tag: "BEGIN" });
  expect(await ask(client, "rollback")).toMatchObject({ tag: "ROLLBACK" });
  expect(await ask(client, "")).toEqual({ value: undefined, tag: "" });
});

test("an exchange asks for no column descriptions, unless the client is wrapped", async () => {
  const client = await connect();
  const { connection } = client as unknown as { connection: { describe(...args: unknown[]): void } };
  const describe = vi.spyOn(connection, "describe");
  expect(await ask(client, "select $1::text", ["plain"])).toMatchObject({ value: "plain" });
  expect(describe).not.toHaveBeenCalled();
  const original = client.query.bind(client) as (...args: unknown[]) => unknown;
  Object.assign(client, { query: (...args: unknown[]) => original(...args) });
  expect(await ask(client, "select $1::text", ["wrapped"])).toMatchObject({ value: "wrapped" });
  expect(describe).toHaveBeenCalledOnce();
});

test("an exchange takes null, and arrays whose elements need no quotes", async () => {
  const client = await connect();
  const text = "select pg_catalog.concat($1::text is null, pg_catalog.array_length($2::int8[], 1))";
  expect(await ask(client, text, [null, arrayOf(["-1", "2", "3"])])).toMatchObject({ value: "t3" });
  expect(await ask(client, text, ["", arrayOf([])])).toMatchObject({ value: "f" });
});

test("a server error rejects its own statement; those before and after are answered", async () => {
  const client = await connect();
  const answers = await Promise.allSettled([
    ask(client, "select 1"),
    ask(client, "select 1 / $1::int4", ["0"]),
    ask(client, "syntax error"),
    ask(client, "select $1::text", ["2"], "two"),
    ask(client, "select 3"),
  ]);
  expect(answers).toMatchObject([
    { value: { value: "1" } },
    { reason: { code: "22012" } },
    { reason: { code: "42601" } },
    { value: { value: "2" } },
    { value: { value: "3" } },
  ]);
});

test("a named statement is parsed once for each connection, whoever sends it first", async () => {
  const client = await connect();
  const prepared = async () => {
    const { rows } = await client.query("select name, statement from pg_prepared_statements order by name");
    return rows;
  };
  const text = "select $1::text";
  for (const value of ["a", "b"]) expect(await ask(client, text, [value], "ours")).toMatchObject({ value });
  expect((await client.query({ name: "ours", text, values: ["c"] })).rows).toHaveLength(1);
  await client.query({ name: "theirs", text, values: ["d"] });
  expect(await ask(client, text, ["e"], "theirs")).toMatchObject({ value: "e" });
  expect(await prepared()).toEqual([
    { name: "ours", statement: text },
    { name: "theirs", statement: text },
  ]);
});

test("the end of the connection rejects what is under way, and what waits behind it", async () => {
  const client = await connect();
  const asked = [ask(client, "select pg_terminate_backend(pg_backend_pid())"), ask(client, "select 1")];
  for (const each of await Promise.allSettled(asked)) expect(each.status).toBe("rejected");
});

test("the driver's query_timeout bounds an exchange as well", async () => {
  const client = await connect({ query_timeout: 100 });
  await expect(ask(client, "select pg_sleep(60)")).rejects.toThrow("Query read timeout");
});

test("an answer after the driver's query_timeout is told to nobody", async () => {
  const client = await connect({ query_timeout: 100 });
  const outcomes: unknown[] = [];
  class Slow extends Exchange {
    override replied({ value }: Reply): void {
      outcomes.push(value);
    }
    override failed(error: Error): void {
      outcomes.push(error.message);
    }
  }
  new Slow().submitTo(client, statement("select pg_sleep(0.3)"), []);
  // Its turn comes when the first has been answered.
  await expect(ask(client, "select 1")).rejects.toThrow("Query read timeout");
  await vi.waitFor(async () => expect(await ask(client, "select 2")).toMatchObject({ value: "2" }));
  expect(outcomes).toEqual(["Query read timeout"]);
});

test("a deadline that passes ends the session, and its late answer reaches nobody", async () => {
  const pool = createPool({ max: 1 });
  const session = await new Promise<Session>((resolve, reject) => {
    pool.connect((error, client, release) => {
      if (client === undefined) reject(error);
      else resolve(new Session(client, release));
    });
  });
  const slow = session.run("Sleeping", statement("select pg_sleep(60)"), [], 50);
  const behind = session.run("Waiting", statement("select 1"), [], 5_000);
  await expect(slow).rejects.toBeInstanceOf(DatabaseError);
  await expect(behind).rejects.toBeInstanceOf(DatabaseError);
  expect(session.goneBecause?.message).toBe("no answer within 50 ms");
});

test.each(["dedicated", "shared"] as const)(
  "a client that pipelines carries locks, too: %s",
  async (sessions) => {
    const pool = createPool({ connectionString: databaseUrl(), pipeline: true } as pg.PoolConfig);
    await using locker = createLocker({ pool, sessions });
    const locks = await Promise.all([1, 2, 3].map(() => locker.acquire(uniqueKey())));
    for (const lock of locks) {
      await lock.refresh();
      expect(await holdersOf(lock.id)).toHaveLength(1);
      await lock.release();
    }
  },
);
