import assert from "node:assert/strict";
import type { Lock } from "../../contract/lock.ts";
import {
  assertRejectsWith,
  type Case,
  emptyKey,
  failures,
  heldElsewhere,
  inTime,
  invalid,
  invalidKey,
  never,
  notHeld,
  pass,
  until,
  waitTimeout,
} from "./fixture.ts";

const error = new Error("the function's own");

/** Cases about `semaphore`. */
export const semaphoreCases: readonly Case[] = [
  {
    says: "a semaphore grants as many permits as it has, and another when one is released",
    run: async ({ locker, key }) => {
      const semaphore = locker.semaphore(key, 2);
      assert.deepEqual([semaphore.key, semaphore.permits], [key, 2]);
      const one = await semaphore.acquire({ ttl: "40s" });
      const other = await semaphore.tryAcquire();
      assert(other);
      assert.deepEqual([one.key, one.ttl, one.held, other.key, other.held], [key, 40_000, true, key, true]);
      assert.notEqual(one.id, other.id);
      await assert.rejects(semaphore.acquire(), { ...heldElsewhere, key });
      assert.equal(await semaphore.tryAcquire(), undefined);
      assert.equal(await locker.semaphore(key, 2).tryAcquire(), undefined);
      await one.release();
      assert.deepEqual([one.held, other.held], [false, true]);
      await assert.rejects(one.release(), notHeld("released"));
      assert((await semaphore.acquire()).held);
      assert.equal(await semaphore.tryAcquire(), undefined);
    },
  },
  {
    says: "a semaphore is independent of the lock of its key, and of other semaphores",
    run: async ({ locker, key }) => {
      await locker.acquire(key);
      const permit = await locker.semaphore(key, 1).acquire();
      assert((await locker.semaphore(`${key}:other`, 1).acquire()).held);
      assert(permit.held);
    },
  },
  {
    says: "two lockers share the permits of a semaphore",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      const other = await another();
      const permit = await locker.semaphore(key, 1).acquire();
      await assert.rejects(other.semaphore(key, 1).acquire(), heldElsewhere);
      await permit.release();
      assert((await other.semaphore(key, 1).acquire()).held);
    },
  },
  {
    says: "callers that wait for a permit get one in the order in which they came",
    run: async ({ locker, key, patience }) => {
      const semaphore = locker.semaphore(key, 1);
      const permit = await semaphore.acquire();
      const served: number[] = [];
      const waiting = [0, 1, 2].map((place) =>
        semaphore.withPermit(() => void served.push(place), { wait: patience }),
      );
      await permit.release();
      await Promise.all(waiting);
      assert.deepEqual(served, [0, 1, 2]);
    },
  },
  {
    says: "a wait for a permit that runs out rejects, and one that is aborted rejects with the reason",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const semaphore = locker.semaphore(key, 1);
      const permit = await semaphore.acquire();
      await assert.rejects(semaphore.acquire({ wait: brief }), { ...waitTimeout, key });
      assert.equal(await semaphore.tryAcquire({ wait: brief }), undefined);
      const aborting = new AbortController();
      const waiting = semaphore.withPermit(never, { wait: true, signal: aborting.signal });
      aborting.abort(error);
      await assertRejectsWith(waiting, error);
      await permit.release();
      // A place in line that was given up may be seen in the server for a moment longer.
      assert((await semaphore.acquire({ wait: true })).held);
    },
  },
  {
    says: "withPermit and tryWithPermit run their function with a permit, and release it whatever the function does",
    run: async ({ locker, key }) => {
      const { acquire, tryAcquire, withPermit, tryWithPermit } = locker.semaphore(key, 1);
      const work = async (permit: Lock): Promise<unknown> => [permit.held, await tryAcquire()];
      assert.deepEqual(await withPermit(work), [true, undefined]);
      assert.deepEqual(await tryWithPermit(work), { acquired: true, value: [true, undefined] });
      for (const fail of failures(error)) {
        await assertRejectsWith(withPermit(fail), error);
        await assertRejectsWith(tryWithPermit(fail), error);
      }
      await using _permit = await acquire();
      await assert.rejects(withPermit(never), heldElsewhere);
      assert.deepEqual(await tryWithPermit(never), { acquired: false });
    },
  },
  {
    says: "an unbounded wait inside withPermit, for a semaphore all of whose permits it holds, is refused at once",
    run: async ({ locker, key }) => {
      const semaphore = locker.semaphore(key, 1);
      await semaphore.withPermit(async () => {
        await assert.rejects(semaphore.acquire({ wait: true }), heldElsewhere);
      });
    },
  },
  {
    says: "withPermit and tryWithPermit keep their permit past its TTL",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const semaphore = locker.semaphore(key, 2);
      const work = async (permit: Lock): Promise<unknown> => {
        await pass({ ...given, key: `${key}:${permit.id}` }, spare);
        return [permit.held, permit.signal.aborted];
      };
      const [one, other] = await Promise.all([
        semaphore.withPermit(work, { ttl: spare }),
        semaphore.tryWithPermit(work, { ttl: spare, wait: true }),
      ]);
      assert.deepEqual([one, other], [[true, false], { acquired: true, value: [true, false] }]);
    },
  },
  {
    says: "withPermit rejects as soon as its permit lapses, whatever its function does",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, brief, patience } = given;
      const { withPermit } = locker.semaphore(key, 1);
      let reason: { code?: string } | undefined;
      // A permit that came too late may still be on its way back when it is asked for again.
      const options = { ttl: brief, autoRefresh: false, wait: patience };
      inTime(given, () => withPermit(() => new Promise(() => {}), options)).catch((loss) => {
        reason = loss;
      });
      await until(given, () => reason !== undefined, "withPermit rejects");
      assert.equal(reason?.code, "LOCK_EXPIRED");
    },
  },
  {
    says: "a permit with holdAtLeast keeps its place after an early release",
    run: async ({ locker, key }) => {
      const { acquire, tryAcquire } = locker.semaphore(key, 1);
      const permit = await acquire({ holdAtLeast: "1m" });
      await permit.release();
      assert.equal(permit.held, false);
      assert.equal(await tryAcquire(), undefined);
    },
  },
  {
    says: "a number of permits other than the holders' is refused, as long as there are holders",
    run: async ({ locker, key }) => {
      const permit = await locker.semaphore(key, 2).acquire();
      await assert.rejects(locker.semaphore(key, 3).acquire(), invalid("permits"));
      await assert.rejects(locker.semaphore(key, 3).tryAcquire(), invalid("permits"));
      await permit.release();
      assert((await locker.semaphore(key, 3).acquire()).held);
    },
  },
  {
    says: "a semaphore refuses an invalid key or number of permits, and an unknown option",
    run: async ({ locker, key }) => {
      assert.throws(() => locker.semaphore("", 1), emptyKey);
      assert.throws(() => locker.semaphore(42 as unknown as string, 1), invalidKey);
      for (const permits of [0, -1, 1.5, 1_001, Number.NaN, "2"]) {
        assert.throws(() => locker.semaphore(key, permits as number), invalid("permits"));
      }
      const { acquire, withPermit } = locker.semaphore(key, 1);
      await assert.rejects(acquire({ mode: "shared" } as object), invalid("mode"));
      await assert.rejects(acquire({ ttl: 0 }), { code: "INVALID_TTL" });
      await assert.rejects(withPermit(undefined as never), invalid("fn"));
      await (await acquire()).release();
    },
  },
];
