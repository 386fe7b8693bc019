import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { connect, createPool, databaseUrl, holdersOf, onServer, uniqueId } from "../support/database.ts";
import { until } from "../support/until.ts";

// The facts about node-postgres and Node.js that the code relies on.

describe("a node-postgres client", () => {
  test.each(["", "pool"])(
    "without an error listener, a terminated session ends the process (%s)",
    async (kind) => {
      await using child = Child.start("no-error-listener.mjs", {
        args: [kind],
        env: { DATABASE_URL: databaseUrl() },
      });
      const { pid } = (await child.message((message) => "pid" in message)) as { pid: number };
      await onServer("select pg_terminate_backend($1)", [pid]);
      expect(await child.exited).toEqual({ code: 1, signal: null });
      expect(child.stderr).toContain("57P01");
    },
  );

  test("with an error listener hears 57P01 when its session is terminated", async () => {
    const client = await connect();
    const heard = once(client, "error");
    await onServer("select pg_terminate_backend($1)", [client.processID]);
    expect(await heard).toMatchObject([{ code: "57P01" }]);
  });

  test("knows its session's pid from the start, when nothing is in between", async () => {
    const client = await connect();
    const { rows } = await client.query("select pg_backend_pid() as pid");
    expect(rows).toEqual([{ pid: client.processID }]);
  });

  // https://node-postgres.com/apis/client: `query_timeout` is the client's own.
  test("whose query_timeout has passed is later granted the lock that it waits for", async () => {
    const id = uniqueId();
    const holder = await connect();
    await holder.query("select pg_try_advisory_lock($1)", [id]);
    const waiter = await connect({ query_timeout: 100 });
    await expect(waiter.query("select pg_advisory_lock($1)", [id])).rejects.toThrow("Query read timeout");
    expect(await holdersOf(id)).toEqual([holder.processID]);
    await holder.query("select pg_advisory_unlock($1)", [id]);
    await until(async () => (await holdersOf(id))[0] === waiter.processID);
  });

  test("reads a bigint as a string, and sends one in full", async () => {
    const client = await connect();
    const id = 2n ** 53n + 1n;
    expect((await client.query("select $1::bigint as id", [id])).rows).toEqual([{ id: String(id) }]);
  });
});

describe("a node-postgres pool", () => {
  test.each(["new", "idle"])(
    "hands out a client that is %s in the same turn: no event comes between",
    async (kind) => {
      const pool = createPool({ max: 1 });
      if (kind === "idle") await pool.query("select 1");
      const order: string[] = [];
      pool.once("acquire", () => {
        order.push("acquire");
        queueMicrotask(() => order.push("microtask"));
        process.nextTick(() => order.push("tick"));
      });
      await new Promise<void>((resolve, reject) => {
        pool.connect((error, client, release) => {
          order.push("callback");
          release();
          if (error || !client) reject(error ?? new Error("no client"));
          else resolve();
        });
      });
      expect(order.slice(0, 2)).toEqual(["acquire", "callback"]);
    },
  );

  test("takes its own error listener off a client that it hands out", async () => {
    const pool = createPool({ max: 1 });
    await pool.query("select 1");
    const client = await pool.connect();
    try {
      expect(client.listenerCount("error")).toBe(0);
    } finally {
      client.release();
    }
    expect(client.listenerCount("error")).toBe(1);
  });

  test("emits the error of a client that is idle", async () => {
    const pool = createPool({ max: 1 });
    const { rows } = await pool.query<{ pid: number }>("select pg_backend_pid() as pid");
    const heard = once(pool, "connect").catch((error: unknown) => error);
    await onServer("select pg_terminate_backend($1)", [rows[0]?.pid]);
    expect(await heard).toMatchObject({ code: "57P01" });
    expect(pool.totalCount).toBe(0);
  });

  test("ends only when the clients that are checked out are back", async () => {
    const pool = createPool({ max: 2 });
    const client = await pool.connect();
    let ended = false;
    const end = pool.end().then(() => {
      ended = true;
    });
    expect((await client.query("select 1 as value")).rows).toEqual([{ value: 1 }]);
    expect(ended).toBe(false);
    client.release();
    await end;
  });

  test("release(true) destroys the client, and with it the session and its locks", async () => {
    const id = uniqueId();
    const pool = createPool({ max: 1 });
    const client = await pool.connect();
    await client.query("select pg_try_advisory_lock($1)", [id]);
    client.release(true);
    await until(async () => (await holdersOf(id)).length === 0);
    expect(pool.totalCount).toBe(0);
  });

  test("keeps the locks of a client that is released without", async () => {
    const id = uniqueId();
    const pool = createPool({ max: 1 });
    await pool.query("select pg_try_advisory_lock($1)", [id]);
    expect(await holdersOf(id)).toHaveLength(1);
    await pool.query("select pg_advisory_unlock($1)", [id]);
  });
});

describe("a reserved connection of postgres.js whose session has been terminated", () => {
  const reserved = async (kind: string): Promise<Child> => {
    const child = Child.start("reserved-postgres-js.mjs", {
      args: [kind],
      env: { DATABASE_URL: databaseUrl() },
    });
    const { pid } = await child.message((message) => "pid" in message);
    await onServer("select pg_terminate_backend($1)", [pid]);
    const gone = async () =>
      (await onServer("select from pg_stat_activity where pid = $1", [pid])).length === 0;
    await until(gone);
    child.send({});
    return child;
  };

  test("tells nobody, and takes the process down at the next statement", async () => {
    await using child = await reserved("own");
    expect(await child.exited).toEqual({ code: 1, signal: null });
    // Which of these depends on how far the closing of the socket has come by then.
    expect(child.stderr).toMatch(
      /Cannot read properties of null \(reading 'write'\)|ECONNRESET|CONNECTION_CLOSED/,
    );
  });

  test("goes on with another session, if the pool has reconnected for somebody else", async () => {
    await using child = await reserved("others");
    const { pid } = await child.message((message) => "pid" in message);
    const { again } = await child.message((message) => "again" in message);
    expect(again).not.toBe(pid);
  });
});

describe("Node.js", () => {
  // https://nodejs.org/docs/latest-v20.x/api/timers.html#settimeoutcallback-delay-args
  test("fires a timer of more than 2^31-1 ms at once, with a warning", async () => {
    const warned = once(process, "warning");
    await new Promise((resolve) => setTimeout(resolve, 2 ** 31));
    expect(await warned).toMatchObject([{ name: "TimeoutOverflowWarning" }]);
  });
});
