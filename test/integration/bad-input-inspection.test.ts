import type pg from "pg";
import { expect, test } from "vitest";
import {
  diagnose,
  endHolders,
  InvalidConfigError,
  type Lock,
  listLocks,
  PostgresLocker,
} from "../../src/index.ts";
import { createPool, databaseUrl, uniqueKey } from "../support/database.ts";

// An option that is misspelt or of the wrong type is refused, by the functions that look at locks as by a locker: ignored, it could make a
// held lock look free.

interface Given {
  readonly pool: pg.Pool;
  readonly locker: PostgresLocker;
  readonly lock: Lock;
}

// biome-ignore lint/suspicious/noExplicitAny: what is given here is wrong on purpose
type Wrong = any;
const on = (wrong: Wrong): Wrong => wrong;

test.each<[says: string, call: (given: Given) => Promise<unknown>]>([
  ["`id` to be a bigint", ({ pool, lock }) => listLocks(pool, on({ id: Number(lock.id) }))],
  ["`id` to be a bigint", ({ pool }) => listLocks(pool, { id: 2n ** 63n })],
  ["`idd` to be absent", ({ pool, lock }) => listLocks(pool, on({ idd: lock.id }))],
  ["`signal` to be an AbortSignal", ({ pool }) => listLocks(pool, on({ signal: 5 }))],
  ["`keysWithin` to be a duration", ({ pool }) => listLocks(pool, { keysWithin: -1 })],
  ["`keysWithin` to be a duration", ({ pool }) => listLocks(pool, { keysWithin: Number.POSITIVE_INFINITY })],
  ["`options` to be an object", ({ pool }) => listLocks(pool, on(null))],
  ["`pool` to be a node-postgres Pool", () => listLocks(on(undefined))],
  ["`pool` to be a node-postgres Pool", () => listLocks(on(databaseUrl()))],
  ["`pool` to be a node-postgres Pool", () => diagnose(on(undefined))],
  ["`pool` to be a node-postgres Pool", () => diagnose(on(databaseUrl()))],
  ["`poolr` to be absent", ({ pool }) => diagnose(pool, on({ poolr: "session" }))],
  ["`pooler` to be", ({ pool }) => diagnose(pool, on({ pooler: "x" }))],
  ["`fencing` to be true or false", ({ pool }) => diagnose(pool, on({ fencing: "yes" }))],
  ["`ttlEnforcement` to be", ({ pool }) => diagnose(pool, on({ ttlEnforcement: "x" }))],
  ["`deadline` to be a positive duration", ({ pool }) => diagnose(pool, { deadline: 0 })],
  ["`lock` to be an object { id, pids }", ({ pool }) => endHolders(pool, on("o"))],
  ["`id` to be a bigint", ({ pool }) => endHolders(pool, on({ pids: [] }))],
  [
    "`pids` to be an array of process ids",
    ({ pool, lock }) => endHolders(pool, on({ id: lock.id, pids: ["1"] })),
  ],
  [
    "`pool` to be a node-postgres Pool",
    ({ locker, lock }) => endHolders(on(locker), { id: lock.id, pids: [] }),
  ],
  ["`sgnal` to be absent", ({ locker }) => locker.ping(on({ sgnal: AbortSignal.abort() }))],
  ["`sgnal` to be absent", ({ lock }) => lock.refresh("30s", on({ sgnal: AbortSignal.abort() }))],
  ["`signal` to be an AbortSignal", ({ lock }) => lock.refresh(undefined, on({ signal: {} }))],
])("%s, in what is asked", async (says, call) => {
  const pool = createPool({ max: 2 });
  await using locker = new PostgresLocker({ pool });
  await using lock = await locker.acquire(uniqueKey());
  const error = await call({ pool, locker, lock }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(InvalidConfigError);
  expect((error as Error).message).toContain(`Expected ${says}`);
  expect((error as Error).message).not.toContain(databaseUrl());
  expect(lock.held).toBe(true);
});
