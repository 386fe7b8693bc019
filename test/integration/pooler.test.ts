import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  LockLostError,
  LockNotAcquiredError,
  listLocks,
  PoolerDetectedError,
} from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  type Session,
  uniqueId,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { costlyModes } from "../support/session-modes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A real pooler between the locker and the server. The last part shows what a pooler may do to a session.

const modes = ["transaction", "statement", "session"] as const;

describe.each(costlyModes)("with %s sessions", (sessions) => {
  describe.skipIf(!PgBouncer.installed)("behind PgBouncer (skipped where pgbouncer is not installed)", () => {
    describe.each(modes)("in %s mode", (mode) => {
      test("the locker refuses to acquire, says what to do, and leaves nothing behind", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode });
        const pool = createPool({ connectionString: bouncer.url });
        await using locker = createLocker({ sessions, pool });
        const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
        expect(refused).toBeInstanceOf(PoolerDetectedError);
        expect(refused).toMatchObject({ code: "POOLER_DETECTED" });
        expect((refused as Error).message).toContain("Connect the locker to the server's own port");
        expect((refused as Error).message).toContain('pooler: "session"');
        expect(await advisoryLocks()).toEqual([]);
        expect([pool.totalCount, pool.waitingCount]).toEqual([0, 0]);
      });

      test("a ping is refused in the same words", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode });
        await using locker = createLocker({ sessions, pool: createPool({ connectionString: bouncer.url }) });
        await expect(locker.ping()).rejects.toBeInstanceOf(PoolerDetectedError);
      });

      test("every way to take a lock is refused, and runs nothing under it", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode });
        const pool = createPool({ connectionString: bouncer.url });
        await using locker = createLocker({ sessions, pool });
        let runs = 0;
        const run = () => {
          runs += 1;
        };
        const taken = await Promise.allSettled([
          locker.acquire(uniqueKey(), { mode: "shared" }),
          locker.tryAcquire(uniqueKey()),
          locker.tryAcquire(uniqueKey(), { mode: "shared" }),
          locker.withLock(uniqueKey(), run),
          locker.tryWithLock(uniqueKey(), run),
        ]);
        for (const refused of taken) {
          expect(refused).toMatchObject({ status: "rejected", reason: { code: "POOLER_DETECTED" } });
        }
        expect(runs).toBe(0);
        expect(await advisoryLocks()).toEqual([]);
        expect(pool.totalCount).toBe(0);
      });

      test.skipIf(isOverPostgresJs)(
        "a server session that served a refusal has the role's settings afterwards",
        async () => {
          await using role = await createRole({ settings: { idle_session_timeout: "1h" } });
          await using bouncer = await PgBouncer.start({ url: role.url, mode, poolSize: 1 });
          const pool = createPool({ connectionString: bouncer.url });
          await using locker = createLocker({ sessions, pool });
          const facts = "select pg_backend_pid(), current_setting('idle_session_timeout') as timeout";
          const { rows: before } = await pool.query(facts);
          for (const _ of [1, 2, 3]) {
            await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(PoolerDetectedError);
          }
          const { rows: after } = await pool.query(facts);
          expect(after).toEqual(before);
          expect(after).toMatchObject([{ timeout: "1h" }]);
        },
      );
    });

    describe.skipIf(!PgBouncer.prepares).each([0, 100])(
      "in transaction mode with max_prepared_statements = %i (skipped before 1.21)",
      (prepared) => {
        test("one refusal after another is the same", async () => {
          await using bouncer = await PgBouncer.start({
            url: databaseUrl(),
            mode: "transaction",
            prepared,
            poolSize: 1,
          });
          const pool = createPool({ connectionString: bouncer.url });
          await using locker = createLocker({ sessions, pool });
          for (const _ of [1, 2, 3]) {
            await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(PoolerDetectedError);
          }
          expect(await advisoryLocks()).toEqual([]);
          expect(pool.totalCount).toBe(0);
        });
      },
    );

    describe("in session mode, if the locker is told so,", () => {
      test("locks are taken, contended, refreshed and released as on the server", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        const pools = [1, 2].map(() => createPool({ connectionString: bouncer.url }));
        const [mine, theirs] = pools.map((pool) =>
          createLocker({ sessions: "dedicated", pool, pooler: "session" }),
        );
        if (mine === undefined || theirs === undefined) throw new Error("no lockers");
        await using direct = createLocker({ sessions: "dedicated" });
        const lock = await mine.acquire(uniqueKey());
        for (const other of [theirs, direct]) {
          const refused = await other.acquire(lock.key).catch((error: unknown) => error);
          expect(refused).toBeInstanceOf(LockNotAcquiredError);
          expect(refused).toMatchObject({ reason: "held" });
          expect(await other.tryAcquire(lock.key)).toBeUndefined();
        }
        const [before] = await holdersOf(lock.id);
        await lock.refresh();
        expect(lock.held).toBe(true);
        expect(await holdersOf(lock.id)).toEqual([before]);
        await lock.release();
        expect(await advisoryLocks()).toEqual([]);
        const next = await theirs.acquire(lock.key);
        expect(await holdersOf(lock.id)).toHaveLength(1);
        await next.release();
        expect(await theirs.withLock(lock.key, (held) => held.held)).toBe(true);
        for (const pool of pools) expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
        await mine.close();
        await theirs.close();
      });

      test("a locker that closes frees its locks", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        const locker = createLocker({ sessions, connectionString: bouncer.url, pooler: "session" });
        const lock = await locker.acquire(uniqueKey());
        await locker.close();
        expect(lock.held).toBe(false);
        expect(await advisoryLocks()).toEqual([]);
      });

      test.skipIf(isOverPostgresJs)(
        "the end of a holder's connection frees its lock, though the session lives on",
        async () => {
          await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session", poolSize: 1 });
          await using proxy = await TcpProxy.start(bouncer.url);
          const pool = createPool({ connectionString: proxy.url });
          await using locker = createLocker({ sessions: "dedicated", pool, pooler: "session" });
          const lock = await locker.acquire(uniqueKey());
          const { signal } = lock;
          const [pid] = await holdersOf(lock.id);
          proxy.cut();
          await until(() => signal.aborted);
          expect(signal.reason).toBeInstanceOf(LockLostError);
          await until(async () => (await holdersOf(lock.id)).length === 0);
          const next = await locker.acquire(lock.key);
          expect(await holdersOf(next.id)).toEqual([pid]);
          await next.release();
          expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
        },
      );

      test.skipIf(isOverPostgresJs)(
        "a destroyed session leaves no lock and no setting to the next client",
        async () => {
          await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session", poolSize: 1 });
          await using proxy = await TcpProxy.start(bouncer.url);
          const pool = createPool({ connectionString: proxy.url });
          await using locker = createLocker({ sessions, pool, pooler: "session" });
          const lock = await locker.acquire(uniqueKey(), { ttl: 1000 });
          const [pid] = await holdersOf(lock.id);
          proxy.freeze({ direction: "toClient" });
          // Not answered in time.
          await expect(lock.refresh()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
          await until(async () => (await advisoryLocks()).length === 0);
          const next = await connect({ connectionString: bouncer.url, application_name: "next" });
          const { rows } = await next.query(
            "select pg_backend_pid() as pid, current_setting('application_name') as name",
          );
          expect(rows).toEqual([{ pid, name: "next" }]);
        },
      );

      test.skipIf(isOverPostgresJs)("a grant whose answer is lost is gone with its session", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        await using proxy = await TcpProxy.start(bouncer.url);
        const pool = createPool({ connectionString: proxy.url });
        await using locker = createLocker({ sessions: "dedicated", pool, pooler: "session" });
        await pool.query("select 1");
        proxy.freeze({ direction: "toClient" });
        const acquired = locker.acquire(uniqueKey(), { ttl: 1000 }).catch((error: unknown) => error);
        await until(async () => (await advisoryLocks()).length === 1);
        expect(await acquired).toBeInstanceOf(DatabaseError);
        await until(async () => (await advisoryLocks()).length === 0);
        expect(pool.totalCount).toBe(0);
      });

      test("the end of a holder's backend aborts its signal, and frees the key", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        const pool = createPool({ connectionString: bouncer.url });
        await using locker = createLocker({ sessions: "dedicated", pool, pooler: "session" });
        const lock = await locker.acquire(uniqueKey());
        const { signal } = lock;
        await onServer("select pg_terminate_backend($1)", await holdersOf(lock.id));
        await until(() => signal.aborted);
        expect(signal.reason).toBeInstanceOf(LockLostError);
        expect(lock.held).toBe(false);
        await expect(lock.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "lost" });
        const next = await locker.acquire(lock.key);
        expect(await holdersOf(next.id)).toHaveLength(1);
        await next.release();
        expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
      });

      test("the end of the pooler aborts every holder's signal, and frees their locks", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        const pool = createPool({ connectionString: bouncer.url });
        await using locker = createLocker({ sessions, pool, pooler: "session" });
        const locks = [await locker.acquire(uniqueKey()), await locker.acquire(uniqueKey())];
        const signals = locks.map((lock) => lock.signal);
        await bouncer[Symbol.asyncDispose]();
        await until(() => signals.every((signal) => signal.reason instanceof LockLostError));
        expect(locks.map((lock) => lock.held)).toEqual([false, false]);
        await until(async () => (await advisoryLocks()).length === 0);
        expect(pool.totalCount).toBe(0);
      });

      test("the server enforces a TTL: the holder knows before the next one has the lock", async () => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
        await using proxy = await TcpProxy.start(bouncer.url);
        const options = { pooler: "session", ttlEnforcement: "server" } as const;
        const pool = createPool({ connectionString: proxy.url });
        await using locker = createLocker({ sessions, pool, ...options });
        await using other = createLocker({
          sessions,
          pool: createPool({ connectionString: bouncer.url }),
          ...options,
        });
        const lock = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
        const { signal } = lock;
        proxy.freeze();
        const next = await until(() => other.tryAcquire(lock.key), { interval: 1 });
        expect([lock.held, signal.aborted]).toEqual([false, true]);
        await next.release();
        proxy.cut();
        proxy.thaw();
        await (await locker.acquire(lock.key)).release();
      });

      test.skipIf(isOverPostgresJs)(
        "without a free session a caller waits until the deadline, and gets nothing",
        async () => {
          await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session", poolSize: 1 });
          const pool = createPool({ connectionString: bouncer.url });
          await using locker = createLocker({ sessions: "dedicated", pool, pooler: "session" });
          const lock = await locker.acquire(uniqueKey());
          const key = uniqueKey();
          const refused = await locker.acquire(key, { ttl: 300 }).catch((error: unknown) => error);
          expect(refused).toBeInstanceOf(DatabaseError);
          expect((refused as Error).message).toContain("no answer within 300 ms");
          await lock.release();
          expect(await advisoryLocks()).toEqual([]);
          await (await locker.acquire(key)).release();
          expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
        },
      );
    });
  });
});

describe.skipIf(!PgBouncer.installed)(
  "listLocks, which asks for keys (skipped where pgbouncer is not installed)",
  () => {
    test.each([
      { mode: "transaction", poolSize: 1, isTold: false },
      { mode: "transaction", poolSize: 20, isTold: false },
      { mode: "statement", poolSize: 20, isTold: false },
      { mode: "session", poolSize: 20, reset: "", isTold: true },
    ] as const)(
      "leaves no session of the pooler listening: $mode mode, $poolSize",
      async ({ isTold, ...how }) => {
        await using locker = createLocker({ sessions: "shared" });
        const { key } = await locker.acquire(uniqueKey());
        const direct = createPool();
        const keysOf = async (pool: typeof direct) => {
          return (await listLocks(pool, { keysWithin: "2s" })).map((lock) => lock.key);
        };
        await until(async () => (await keysOf(direct)).includes(key), { deadline: 15_000 });
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), ...how });
        const pooled = createPool({ connectionString: bouncer.url });
        expect(await keysOf(pooled)).toEqual([isTold ? key : undefined]);
        // Together they have every session of the pooler, the last first.
        const clients = await Promise.all([1, 2, 3].map(() => connect({ connectionString: bouncer.url })));
        const listens = clients.map((client) => client.query("select pg_listening_channels()"));
        expect((await Promise.all(listens)).flatMap(({ rows }) => rows)).toEqual([]);
      },
    );

    test("returns, however long it may wait, if the pooler has no second session", async () => {
      await using locker = createLocker({ sessions: "shared" });
      const { id } = await locker.acquire(uniqueKey());
      await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session", poolSize: 1 });
      const pooled = createPool({ connectionString: bouncer.url });
      expect(await listLocks(pooled, { keysWithin: "1h" })).toMatchObject([{ id, key: undefined }]);
    });
  },
);

describe.skipIf(!PgBouncer.installed || isOverPostgresJs)(
  "what PgBouncer does (skipped where pgbouncer is not installed)",
  () => {
    test.each(modes)("in %s mode it announces a backend that is not the one which serves", async (mode) => {
      await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode });
      const client = await connect({ connectionString: bouncer.url });
      expect(client.processID).toBeTypeOf("number");
      expect(await backendOf(client)).not.toBe(client.processID);
    });

    test.each(["transaction", "statement"] as const)(
      "in %s mode two clients both get one exclusive lock, which outlives them",
      async (mode) => {
        await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode, poolSize: 1 });
        const one = await connect({ connectionString: bouncer.url });
        const two = await connect({ connectionString: bouncer.url });
        const id = uniqueId();
        expect(await tryLock(one, id)).toBe(true);
        expect(await tryLock(two, id)).toBe(true);
        const pid = await backendOf(one);
        expect(await backendOf(two)).toBe(pid);
        await one.end();
        await two.end();
        // The next client gets the session that has the lock.
        const three = await connect({ connectionString: bouncer.url });
        expect(await backendOf(three)).toBe(pid);
        expect(await holdersOf(id)).toEqual([pid]);
      },
    );

    test("in session mode a client has a session to itself, whose locks go when it leaves", async () => {
      await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "session" });
      const one = await connect({ connectionString: bouncer.url });
      const two = await connect({ connectionString: bouncer.url });
      const id = uniqueId();
      expect(await tryLock(one, id)).toBe(true);
      expect(await tryLock(two, id)).toBe(false);
      const pid = await backendOf(one);
      await one.end();
      await until(async () => (await holdersOf(id)).length === 0);
      // Not because the session ends.
      expect(await onServer("select pid from pg_stat_activity where pid = $1", [pid])).toEqual([{ pid }]);
      expect(await tryLock(two, id)).toBe(true);
    });
  },
);

async function backendOf(client: Session): Promise<number> {
  return (await client.query<{ pid: number }>("select pg_backend_pid() as pid")).rows[0]?.pid ?? 0;
}

async function tryLock(client: Session, id: bigint): Promise<boolean | undefined> {
  const { rows } = await client.query<{ got: boolean }>("select pg_try_advisory_lock($1) as got", [id]);
  return rows[0]?.got;
}
