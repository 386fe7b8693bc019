import assert from "node:assert/strict";
import type { TransactionLocker } from "../../contract/transaction-locker.ts";
import { assertFree, assertRejectsWith, type Case, closed, type Given, heldElsewhere } from "./fixture.ts";

type GivenTransactions = Given & { readonly locker: TransactionLocker };

const about = (says: string, run: (given: GivenTransactions) => Promise<void>): Case => ({
  says: `withTransaction ${says}`,
  run: (given) => {
    assert("withTransaction" in given.locker, "a locker without `withTransaction` has no contract of it");
    return run(given as GivenTransactions);
  },
});

/** Cases about `withTransaction`. They run no statements, so the clients may be of any kind. */
export const transactionCases: readonly Case[] = [
  about("returns what its function returns, which has the lock and a client", async ({ locker, key }) => {
    const answer = await locker.withTransaction(key, async (client) => {
      assert.equal(typeof client.query, "function");
      assert.equal(await locker.tryAcquire(key), undefined);
      return 42;
    });
    assert.equal(answer, 42);
    await assertFree(locker, key);
  }),
  about("rejects with what its function throws, and frees the lock", async ({ locker, key }) => {
    const error = new Error("the function's own");
    const failing = locker.withTransaction(key, () => {
      throw error;
    });
    await assertRejectsWith(failing, error);
    await assertFree(locker, key);
  }),
  about("is refused if the lock is held, and doesn't run its function", async ({ locker, key }) => {
    const lock = await locker.acquire(key);
    await assert.rejects(
      locker.withTransaction(key, () => assert.fail("it ran")),
      heldElsewhere,
    );
    await lock.release();
  }),
  about("waits for the holder, if it is told to", async ({ locker, key }) => {
    const lock = await locker.acquire(key);
    const waiting = locker.withTransaction(key, () => "ran", { wait: "10s" });
    await lock.release();
    assert.equal(await waiting, "ran");
  }),
  about("gives up a wait that is aborted, for the signal's own reason", async ({ locker, key }) => {
    const lock = await locker.acquire(key);
    const aborting = new AbortController();
    const reason = new Error("the caller's own");
    const options = { wait: true, signal: aborting.signal } as const;
    const waiting = locker.withTransaction(key, () => assert.fail("it ran"), options);
    aborting.abort(reason);
    await assertRejectsWith(waiting, reason);
    await lock.release();
  }),
  about("refuses what is no client, and an option that there is not", async ({ locker, key }) => {
    const refused = { code: "INVALID_CONFIG" };
    for (const options of [{ client: {} }, { client: null }, { fencing: true }, { timeout: 1 }])
      await assert.rejects(
        locker.withTransaction(key, () => assert.fail("it ran"), options as object),
        refused,
      );
    await assert.rejects(locker.withTransaction(key, undefined as unknown as () => void), refused);
    await assertFree(locker, key);
  }),
  about("works without its object, and not after a close", async ({ locker, key }) => {
    const { withTransaction } = locker;
    assert.equal(await withTransaction(key, () => "ran"), "ran");
    await locker.close();
    await assert.rejects(
      withTransaction(key, () => assert.fail("it ran")),
      closed,
    );
  }),
];
