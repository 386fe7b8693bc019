import { afterAll, beforeAll, expect, test } from "vitest";
import type { Lock, PostgresLocker, PostgresLockerOptions } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { makeCommitsWait } from "../support/synchronous-standby.ts";
import { until } from "../support/until.ts";

// The server waits for a synchronous standby that is away: every commit hangs, including that of a fencing token. No other lock is lost,
// the acquire is refused in bounded time, and nothing of it stays in the server.

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start();
}, 60_000);

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** A commit under way when this returns may still wait, but is woken soon. */
async function makeCommitsGoOn(): Promise<void> {
  await server.rows("alter system reset synchronous_standby_names");
  await server.rows("select pg_reload_conf()");
}

const granted = async (): Promise<number> =>
  (await server.rows("select from pg_locks where locktype = 'advisory' and granted")).length;

const hanging = async (): Promise<number> =>
  (await server.rows("select from pg_stat_activity where wait_event = 'SyncRep'")).length;

interface Refused {
  readonly error: unknown;
  readonly after: number;
}

async function refusal(acquiring: Promise<unknown>): Promise<Refused> {
  const start = performance.now();
  const error = await acquiring.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return { error, after: performance.now() - start };
}

test("a fenced acquire loses no other lock and leaves nothing, in every mode", async () => {
  const lockerWith = (options: Partial<PostgresLockerOptions>): PostgresLocker =>
    createLocker({ pool: createPool({ connectionString: server.url, max: 40 }), ...options });
  await using shared = lockerWith({ sessions: "shared" });
  await using enforced = lockerWith({ sessions: "shared", ttlEnforcement: "server" });
  await using dedicated = lockerWith({ sessions: "dedicated" });
  const lockers = [shared, enforced, dedicated];
  const locks: Lock[] = [];
  for (const locker of lockers) {
    const take = () => locker.acquire(uniqueKey(), { ttl: "60s", autoRefresh: true });
    locks.push(...(await Promise.all(Array.from({ length: 10 }, take))));
  }
  const waitedFor = await shared.acquire(uniqueKey());
  await makeCommitsWait(server.url);

  // Locks without tokens need no commit.
  for (const locker of lockers) await (await locker.acquire(uniqueKey())).release();
  const tries = lockers.map((locker) => refusal(locker.acquire(uniqueKey(), { fencing: true })));
  const second = refusal(shared.acquire(uniqueKey(), { fencing: true }));
  const waiting = refusal(enforced.acquire(waitedFor.key, { fencing: true, wait: "8s" }));
  await until(async () => (await server.pidsOf(waitedFor.id, "waiting")).length === 1);
  await waitedFor.release();
  await until(async () => (await hanging()) > 0);
  // Beside it, locks without tokens come and go.
  await (await shared.acquire(uniqueKey())).release();

  for (const { error, after } of await Promise.all([...tries, second, waiting])) {
    expect(error).toBeInstanceOf(Error);
    expect(after).toBeLessThan(15_000);
  }
  expect(locks.filter((lock) => !lock.held || lock.signal.aborted)).toEqual([]);
  // No backend hangs in a commit that nobody waits for any more, and holds a lock that nobody can use.
  await until(async () => (await granted()) === locks.length, { deadline: 5_000 });
  await until(async () => (await hanging()) === 0, { deadline: 5_000 });
  await (await shared.acquire(waitedFor.key)).release();

  await makeCommitsGoOn();
  for (const locker of lockers) {
    const lock = await locker.acquire(uniqueKey(), { fencing: true });
    expect(lock.fencingToken).toBeGreaterThan(0n);
    await lock.release();
  }
  expect(locks.filter((lock) => !lock.held)).toEqual([]);
  await Promise.all(lockers.map((locker) => locker.close()));
  await server.nothingLeft();
}, 60_000);

test("a caller's signal ends a fenced acquire at once, and its lock is released", async () => {
  const locker = createLocker({ pool: createPool({ connectionString: server.url }) });
  const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
  await makeCommitsWait(server.url);
  const controller = new AbortController();
  const key = uniqueKey();
  const acquiring = refusal(locker.acquire(key, { fencing: true, signal: controller.signal }));
  await until(async () => (await hanging()) > 0);
  controller.abort("enough");
  const { error, after } = await acquiring;
  expect(error).toBe("enough");
  expect(after).toBeLessThan(4_000);
  await until(async () => (await granted()) === 1, { deadline: 12_000 });
  expect(lock.held).toBe(true);
  // Ends in seconds, even with the commit of a token under way.
  const late = refusal(locker.acquire(key, { fencing: true }));
  await until(async () => (await hanging()) > 0);
  const start = performance.now();
  await locker.close();
  expect(performance.now() - start).toBeLessThan(12_000);
  expect((await late).error).toBeInstanceOf(Error);
  await makeCommitsGoOn();
  await server.nothingLeft();
}, 60_000);

test("a lock whose TTL passes before its token is drawn is released at once", async () => {
  await using locker = createLocker({
    pool: createPool({ connectionString: server.url }),
    ttlEnforcement: "server",
  });
  // On the same session, which it keeps alive.
  await using lock = await locker.acquire(uniqueKey(), { ttl: "4s", autoRefresh: true });
  await makeCommitsWait(server.url);
  const { error } = await refusal(locker.acquire(uniqueKey(), { ttl: "1500ms", fencing: true }));
  // Sooner than the 5 s of a statement.
  const cause = { message: expect.stringMatching(/^no answer within \d{1,4} ms$/) };
  expect(error).toMatchObject({ name: "DatabaseError", doing: "Drawing a fencing token", cause });
  // The commit of the token still hangs.
  expect([await hanging(), await granted()]).toEqual([1, 1]);
  expect(lock.held).toBe(true);
  await makeCommitsGoOn();
}, 60_000);
