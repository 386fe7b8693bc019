import type pg from "pg";
import { describe, expect, test } from "vitest";
import { diagnose, type Finding, lockId, sha256LockId } from "../../src/index.ts";
import { connect, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// What doctor says of how lockers make their lock ids: only those that make them in the same way exclude each other.

async function lockIdsFound(pool: pg.Pool): Promise<Finding | undefined> {
  return (await diagnose(pool)).find(({ check }) => check === "lock-ids");
}

/** Looks until the finding has a text: a locker begins to tell its keys a second after its session was opened. */
async function found(pool: pg.Pool, text: string): Promise<Finding> {
  return await until(
    async () => {
      const finding = await lockIdsFound(pool);
      return finding?.found.includes(text) && finding;
    },
    { deadline: 15_000, what: `a finding with ${text}` },
  );
}

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("lockers that differ in lockId don't exclude each other, as doctor says", async () => {
    const pool = createPool();
    await using ours = createLocker({ pool, sessions, namespace: 7 });
    const key = uniqueKey();
    await using _lock = await ours.acquire(key);
    expect(await found(pool, ": by `lockId`, the default")).toMatchObject({ verdict: "ok" });
    await using theirs = createLocker({ pool, sessions, namespace: 7, lockId: sha256LockId });
    await using other = await theirs.acquire(key);
    expect(await holdersOf(other.id)).toHaveLength(1);
    const finding = await found(pool, "by `lockId`, the default and by `sha256LockId`, which don't exclude");
    expect(finding).toMatchObject({ verdict: "warn", advice: expect.stringContaining("the same `lockId`") });
  });

  test("a lockId of the caller's own differs from the default, unless its ids don't", async () => {
    const pool = createPool();
    await using ours = createLocker({ pool, sessions });
    await using same = createLocker({ pool, sessions, lockId: (...of) => lockId(...of) });
    await using _lock = await ours.acquire(uniqueKey());
    await using _another = await same.acquire(uniqueKey());
    expect(await found(pool, ": by `lockId`, the default")).toMatchObject({ verdict: "ok" });
    await using own = createLocker({ pool, sessions, lockId: () => 42n });
    await using _own = await own.acquire(uniqueKey());
    expect(await found(pool, "by a `lockId` of their own")).toMatchObject({ verdict: "warn" });
  });

  test.each([
    ["default", lockId, "`lockId`, the default"],
    ["sha256LockId", sha256LockId, "`sha256LockId`"],
  ])("a permit's id is made in the way of its locker: %s", async (_, make, way) => {
    const pool = createPool();
    await using locker = createLocker({ pool, sessions, lockId: make });
    const bytes = Buffer.concat([Buffer.of(0xff), Buffer.from(uniqueKey())]);
    await using _lock = await locker.acquire(bytes);
    await using _permit = await locker.semaphore(uniqueKey(), 3).acquire();
    await using _ofBytes = await locker.semaphore(bytes, 3).acquire();
    const finding = await found(pool, `: by ${way}`);
    expect(finding).toMatchObject({ verdict: "ok", found: expect.stringMatching(/`(, the default)?$/) });
  });
});

test("doctor says that it doesn't know of sessions that don't tell their keys", async () => {
  const pool = createPool();
  await using quiet = createLocker({ pool, sessions: "shared", tellKeys: false });
  await using _untold = await quiet.acquire(uniqueKey());
  const alone = await lockIdsFound(pool);
  expect(alone).toEqual({
    check: "lock-ids",
    verdict: "ok",
    found: "how lock ids are made is not known: 1 session with many locks doesn't tell the keys",
  });
  await using telling = createLocker({ pool, sessions: "dedicated" });
  await using _told = await telling.acquire(uniqueKey());
  expect((await lockIdsFound(pool))?.found).toMatch(
    /: by `lockId`, the default; 1 session with many locks doesn't tell theirs$/,
  );
});

test("behind a pooler that shares sessions, doctor leaves nobody listening", async () => {
  await using pooler = await ImitatedPooler.start(databaseUrl(), "transaction");
  await using locker = createLocker({ sessions: "shared" });
  await using _lock = await locker.acquire(uniqueKey());
  await found(createPool(), ": by `lockId`, the default");
  const pool = createPool({ connectionString: pooler.url });
  expect((await lockIdsFound(pool))?.found).toMatch(/^how lock ids are made is not known: 1 session/);
  expect((await pool.query("select pg_listening_channels()")).rows).toEqual([]);
});

test.each(["pg-locker 99999999999 k", "pg-locker 7 50%", "pg-locker k"])(
  "a session with locks that another application named %s shows no key",
  async (name) => {
    const client = await connect({ application_name: name });
    await client.query("select pg_advisory_lock(42)");
    expect(await lockIdsFound(createPool())).toMatchObject({
      verdict: "ok",
      found: expect.stringMatching(/no lock shows its key now$/),
    });
  },
);
