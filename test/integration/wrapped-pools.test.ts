import pg from "pg";
import { afterEach, describe, expect, test } from "vitest";
import { DatabaseError, listLocks, lockId } from "../../src/index.ts";
import { advisoryLocks, databaseUrl, holdersOf, terminateHolder, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// Pools are subclassed, wrapped by hand, and patched by tracing agents: each kind carries locks, and gets every connection back.

type Query = (...args: unknown[]) => Promise<unknown>;
interface Config {
  max: number;
}

const opened: pg.Pool[] = [];
const connectionString = databaseUrl();

function create<P extends pg.Pool>(make: new (config: pg.PoolConfig) => P, config: Config): P {
  const pool = new make({ connectionString, ...config });
  opened.push(pool);
  return pool;
}

afterEach(async () => {
  for (const pool of opened.splice(0)) {
    await until(() => pool.idleCount === pool.totalCount);
    expect(pool.waitingCount).toBe(0);
    await pool.end();
  }
  expect(await advisoryLocks()).toEqual([]);
});

class KnowsPromisesOnly extends pg.Pool {
  // biome-ignore lint/suspicious/noExplicitAny: as applications write it
  override async connect(): Promise<any> {
    const client = await super.connect();
    await client.query("set application_name to 'prepared'");
    return client;
  }
}

class PassesOnWhatItGets extends pg.Pool {
  // biome-ignore lint/suspicious/noExplicitAny: as applications write it
  override async connect(...args: []): Promise<any> {
    return await super.connect(...args);
  }
}

class ChainsToConnect extends pg.Pool {
  // biome-ignore lint/suspicious/noExplicitAny: as applications write it
  override connect(callback?: any): any {
    return (super.connect(callback) as unknown as Promise<pg.PoolClient>).then((client) => client);
  }
}

class AnswersInBothWays extends pg.Pool {
  // biome-ignore lint/suspicious/noExplicitAny: as applications write it
  override connect(callback?: any): any {
    const connecting = super.connect();
    if (callback !== undefined) {
      connecting.then(
        (client) => callback(undefined, client, client.release),
        (error) => callback(error),
      );
    }
    return connecting;
  }
}

class CallsBackWithoutRelease extends pg.Pool {
  // biome-ignore lint/suspicious/noExplicitAny: as applications write it
  override connect(callback?: any): any {
    return super.connect((error, client) => callback(error, client));
  }
}

/** Wraps `query` of each client that the pool makes. */
function querying(wrap: (query: Query, client: pg.Client) => Query): typeof pg.Pool {
  return class extends pg.Pool {
    constructor(config: pg.PoolConfig) {
      super(config);
      this.on("connect", (client) => {
        const original = client.query.bind(client) as Query;
        Object.assign(client, { query: wrap(original, client as unknown as pg.Client) });
      });
    }
  } as typeof pg.Pool;
}

const kinds: ReadonlyArray<readonly [string, (config: Config) => unknown]> = [
  ["a subclass whose connect knows promises only", (config) => create(KnowsPromisesOnly, config)],
  ["a subclass whose connect passes on what it gets", (config) => create(PassesOnWhatItGets, config)],
  ["a subclass that chains to what connect returns", (config) => create(ChainsToConnect, config)],
  ["a subclass that answers both callback and promise", (config) => create(AnswersInBothWays, config)],
  [
    "a subclass that calls back without a way to release",
    (config) => create(CallsBackWithoutRelease, config),
  ],
  [
    "an object of an application's own",
    (config) => {
      const pool = create(pg.Pool, config);
      return {
        Client: (pool as unknown as { Client: unknown }).Client,
        connect: () => pool.connect(),
        on: pool.on.bind(pool),
        end: () => pool.end(),
        query: pool.query.bind(pool),
        options: pool.options,
        get totalCount() {
          return pool.totalCount;
        },
        get idleCount() {
          return pool.idleCount;
        },
      };
    },
  ],
  [
    "a proxy",
    (config) =>
      new Proxy(create(pg.Pool, config), {
        get(pool, name) {
          const value = Reflect.get(pool, name) as unknown;
          return typeof value === "function" ? value.bind(pool) : value;
        },
      }),
  ],
  [
    "clients whose query chains to a promise",
    (config) =>
      create(
        querying(
          (query) =>
            (...args) =>
              query(...args).then((result) => result),
        ),
        config,
      ),
  ],
  [
    "clients whose query reads the text that it is given",
    (config) =>
      create(
        querying((query) => async (statement, values) => {
          const text = typeof statement === "string" ? statement : (statement as { text: string }).text;
          expect(text.trim()).toMatch(/\w/);
          return query(statement, values);
        }),
        config,
      ),
  ],
  [
    "clients whose query an agent copies",
    (config) =>
      create(
        querying(
          (query) =>
            (statement, ...rest) =>
              query(typeof statement === "string" ? statement : { ...(statement as object) }, ...rest),
        ),
        config,
      ),
  ],
  [
    "clients whose query gives each text a comment of its own",
    (config) => {
      let at = 0;
      const commented = (statement: unknown): unknown => {
        at += 1;
        if (typeof statement === "string") return `${statement} /* ${at} */`;
        const { text } = statement as { text: string };
        return { ...(statement as object), text: `${text} /* ${at} */` };
      };
      return create(
        querying(
          (query) =>
            (statement, ...rest) =>
              query(commented(statement), ...rest),
        ),
        config,
      );
    },
  ],
  [
    "clients each behind a proxy of its own",
    (config) => {
      const pool = create(pg.Pool, config);
      const connect = pool.connect.bind(pool) as () => Promise<pg.PoolClient>;
      const bound = (target: object, name: string | symbol): unknown => {
        const value = Reflect.get(target, name) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      };
      return Object.assign(pool, { connect: async () => new Proxy(await connect(), { get: bound }) });
    },
  ],
  [
    "clients on a stream that can't be corked",
    (config) =>
      create(
        querying((query, client) => {
          const { stream } = (client as unknown as { connection: { stream: { cork: unknown } } }).connection;
          Object.assign(stream, { cork: undefined });
          return query;
        }),
        config,
      ),
  ],
];

describe.each(["dedicated", "shared"] as const)("with %s sessions", (sessions) => {
  test.each(kinds)("%s: carries a lock, and gets its connection back", async (_, make) => {
    const pool = make({ max: 2 }) as pg.Pool;
    await using locker = createLocker({ pool, sessions });
    const key = uniqueKey();
    for (let times = 0; times < 3; times += 1) {
      const lock = await locker.acquire(key);
      expect(await holdersOf(lock.id)).toHaveLength(1);
      await expect(locker.tryAcquire(key)).resolves.toBeUndefined();
      await lock.refresh();
      await lock.release();
      expect(await holdersOf(lock.id)).toEqual([]);
    }
    expect(pool.totalCount).toBeLessThanOrEqual(2);
    await locker.withTransaction(key, async (client) => {
      expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    });
    await locker.ping();
  });

  test.each(kinds)("%s: a session that ends in a transaction goes back, too", async (_, make) => {
    const pool = make({ max: 1 }) as pg.Pool;
    await using locker = createLocker({ pool, sessions, connWaitTimeout: "5s" });
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client: pg.PoolClient) => {
      const ended = new Promise<void>((resolve) => void client.once("end", resolve));
      await terminateHolder(lockId(0, key));
      await ended;
    });
    await expect(running).rejects.toThrow(DatabaseError);
    // The pool may hear of the end before the server has freed the lock.
    await locker.withTransaction(key, () => {}, { wait: "5s" });
  });

  test("what a client throws is a DatabaseError, and its connection isn't used again", async () => {
    let isBroken = false;
    const Throwing = querying((query) => (...args) => {
      if (isBroken) throw new TypeError("text.trim is not a function");
      return query(...args);
    });
    const pool = create(Throwing, { max: 2 });
    await using locker = createLocker({ pool, sessions });
    await (await locker.acquire(uniqueKey())).release();
    isBroken = true;
    const failed = locker.acquire(uniqueKey());
    await expect(failed).rejects.toThrow(DatabaseError);
    await expect(failed).rejects.toThrow("text.trim is not a function");
    isBroken = false;
    await (await locker.acquire(uniqueKey())).release();
  });
});

test.each([
  [
    "throws",
    () => {
      throw new Error("no connection today");
    },
  ],
  ["rejects", () => Promise.reject(new Error("no connection today"))],
])("what a pool's connect %s is a DatabaseError", async (_, connect) => {
  const pool = create(pg.Pool, { max: 1 });
  Object.assign(pool, { connect });
  await using locker = createLocker({ pool, sessions: "dedicated" });
  const failed = locker.acquire(uniqueKey());
  await expect(failed).rejects.toThrow(DatabaseError);
  await expect(failed).rejects.toThrow("no connection today");
});

test("a client that can't be given back is a DatabaseError", async () => {
  const pool = create(pg.Pool, { max: 1 });
  const client = new pg.Client({ connectionString });
  Object.assign(pool, { connect: async () => client });
  await using locker = createLocker({ pool, sessions: "dedicated" });
  const failed = locker.acquire(uniqueKey());
  await expect(failed).rejects.toThrow(DatabaseError);
  await expect(failed).rejects.toThrow("the pool's `connect` gave a client that has no `release`");
});

test("a pool without the class of its clients can lock, but neither ping nor inspect", async () => {
  const pool = new Proxy(create(pg.Pool, { max: 2 }), {
    get(wrapped, name) {
      const value = name === "Client" ? undefined : (Reflect.get(wrapped, name) as unknown);
      return typeof value === "function" ? value.bind(wrapped) : value;
    },
  });
  await using locker = createLocker({ pool, sessions: "shared" });
  const key = uniqueKey();
  expect(await locker.withLock(key, () => "done")).toBe("done");
  const wants =
    "Expected `pool.Client` to be the class of the pool's clients, as node-postgres has it, got `undefined`";
  const refused = { code: "INVALID_CONFIG", field: "pool.Client", message: wants };
  await expect(locker.ping()).rejects.toMatchObject(refused);
  await expect(locker.inspect(key)).rejects.toMatchObject(refused);
  await expect(listLocks(pool)).rejects.toMatchObject(refused);
  for (const wait of [0, true] as const) {
    await expect(locker.acquire(key, { fencing: true, wait })).rejects.toMatchObject(refused);
  }
  await using dedicated = createLocker({ pool, sessions: "dedicated" });
  expect(await dedicated.withLock(key, (lock) => typeof lock.fencingToken, { fencing: true })).toBe("bigint");
});

test("a connection that is promised after its caller gave up goes back", async () => {
  const pool = create(KnowsPromisesOnly, { max: 1 });
  const client = await pool.connect();
  await using locker = createLocker({ pool, sessions: "dedicated", connWaitTimeout: "50ms" });
  await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
  client.release();
  await until(() => pool.idleCount === 1 && pool.waitingCount === 0);
});
