import assert from "node:assert/strict";
import type { TransactionLocker } from "../../contract/transaction-locker.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  closed,
  emptyKey,
  type Given,
  heldElsewhere,
  invalidTtl,
  never,
  pass,
  underWay,
  until,
  waitTimeout,
} from "./fixture.ts";

type GivenTransactions = Omit<Given, "locker"> & { readonly locker: TransactionLocker };

const about = (
  says: string,
  run: (given: GivenTransactions) => Promise<void>,
  more: Pick<Case, "letsPass"> = {},
): Case => ({
  says: `withTransaction ${says}`,
  ...more,
  run: (given) => {
    assert("withTransaction" in given.locker, "a locker without `withTransaction` has no contract of it");
    return run({ ...given, locker: given.locker as TransactionLocker });
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
    await assert.rejects(locker.withTransaction(key, never), heldElsewhere);
    await lock.release();
  }),
  about("waits for the holder, with the option `wait`", async ({ locker, key }) => {
    const lock = await locker.acquire(key);
    const waiting = locker.withTransaction(key, () => "ran", { wait: "10s" });
    await lock.release();
    assert.equal(await waiting, "ran");
  }),
  about("ends a wait that is aborted, with the signal's own reason", async ({ locker, key }) => {
    const lock = await locker.acquire(key);
    const aborting = new AbortController();
    const reason = new Error("the caller's own");
    const options = { wait: true, signal: aborting.signal } as const;
    const waiting = locker.withTransaction(key, never, options);
    aborting.abort(reason);
    await assertRejectsWith(waiting, reason);
    await lock.release();
  }),
  about(
    "of a namespace locks the key with its prefix, also of one inside another",
    async ({ locker, key }) => {
      const billing = locker.namespace(`${key}-ns`);
      for (const [within, full] of [
        [billing, `${key}-ns:a`],
        [billing.namespace("inner"), `${key}-ns:inner:a`],
      ] as const) {
        const answer = await within.withTransaction("a", async (client) => {
          assert.equal(typeof client.query, "function");
          return [await locker.isHeld(full), await locker.isHeld("a")];
        });
        assert.deepEqual(answer, [true, false]);
        await assertFree(locker, full);
      }
    },
  ),
  about("refuses what is not a client, and an unknown option", async ({ locker, key }) => {
    const refused = { code: "INVALID_CONFIG" };
    for (const options of [{ client: {} }, { client: null }, { fencing: true }, { timeout: 1 }])
      await assert.rejects(locker.withTransaction(key, never, options as object), refused);
    await assert.rejects(locker.withTransaction(key, undefined as unknown as () => void), refused);
    await assertFree(locker, key);
  }),
  about(
    "of an empty key, or with a TTL that is none, is refused, and doesn't run its function",
    async ({ locker, key }) => {
      await assert.rejects(locker.withTransaction("", never), emptyKey);
      await assert.rejects(locker.withTransaction(key, never, { ttl: 0 }), invalidTtl);
      await assertFree(locker, key);
    },
  ),
  about(
    "whose wait passes doesn't run its function",
    async ({ locker, key, brief }) => {
      const lock = await locker.acquire(key);
      await assert.rejects(locker.withTransaction(key, never, { wait: brief }), { ...waitTimeout, key });
      await lock.release();
      await assertFree(locker, key);
    },
    { letsPass: "brief" },
  ),
  about("in shared mode runs beside readers, and not beside a writer", async ({ locker, key }) => {
    const mode = "shared";
    const writer = await locker.acquire(key);
    await assert.rejects(locker.withTransaction(key, never, { mode }), heldElsewhere);
    await writer.release();
    const reader = await locker.acquire(key, { mode });
    const answer = locker.withTransaction(key, () => locker.tryAcquire(key, { mode }), { mode });
    await (await answer)?.release();
    await reader.release();
  }),
  about(
    "keeps its lock past its TTL",
    async (given) => {
      const { locker, key, spare } = given;
      const work = async (): Promise<unknown> => {
        await pass(given, spare);
        return await locker.tryAcquire(key);
      };
      assert.equal(await locker.withTransaction(key, work, { ttl: spare }), undefined);
      await assertFree(locker, key);
    },
    { letsPass: "spare" },
  ),
  about("doesn't share its lock, whatever a call inside it asks for", async ({ locker, key }) => {
    await locker.withTransaction(key, async () => {
      await assert.rejects(locker.withLock(key, never, { reentrant: true }), heldElsewhere);
      await assert.rejects(locker.acquire(key, { wait: true }), heldElsewhere);
    });
  }),
  about("has no events", async (given) => {
    const { locker, key } = given;
    const told: string[] = [];
    for (const name of ["acquired", "released", "lost", "waiting"] as const) {
      locker.on(name, (event) => told.push(`${name} ${event.key}`));
    }
    const { running, end } = await underWay((work) => locker.withTransaction(key, work));
    const second = locker.withTransaction(key, () => {}, { wait: true });
    const third = locker.withTransaction(key, () => {}, { wait: true });
    end();
    await Promise.all([running, second, third]);
    await assertFree(locker, `${key}:other`);
    await until(given, () => told.includes(`released ${key}:other`), "the event of another lock");
    assert.deepEqual(told, [`acquired ${key}:other`, `released ${key}:other`]);
  }),
  about("commits nothing if its locker closes in the meantime", async ({ locker, key }) => {
    const running = locker.withTransaction(key, async () => {
      await locker.close();
      return 42;
    });
    await assert.rejects(running, closed);
  }),
  about("can be called without its object, and not after a close", async ({ locker, key }) => {
    const { withTransaction } = locker;
    assert.equal(await withTransaction(key, () => "ran"), "ran");
    await locker.close();
    await assert.rejects(withTransaction(key, never), closed);
  }),
];
