import assert from "node:assert/strict";
import type { ElectOptions, Leader } from "../../contract/election.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  closed,
  emptyKey,
  invalid,
  invalidTtl,
  never,
  underWay,
  until,
  whatIsDue,
} from "./fixture.ts";

const error = new Error("the leader's own");

/** Cases about `elect`. */
export const electionCases: readonly Case[] = [
  {
    says: "a leader has the lock of the key, which is free once the election is told to end",
    run: async ({ locker, key }) => {
      const ending = new AbortController();
      let seen: unknown;
      await locker.elect(key, {
        signal: ending.signal,
        ttl: "40s",
        fencing: true,
        onElected: async (lock, { signal }) => {
          const { ttl, held, fencingToken } = lock;
          seen = [lock.key, ttl, held, typeof fencingToken, signal.aborted, await locker.tryAcquire(key)];
          ending.abort(error);
          seen = [seen, signal.aborted, signal.reason];
          // Work that was told to stop may stop by throwing.
          throw new Error("it has to stop");
        },
      });
      assert.deepEqual(seen, [[key, 40_000, true, "bigint", false, undefined], true, error]);
      await assertFree(locker, key);
    },
  },
  {
    says: "a candidate leads once the holder has released, unless it is told to end before that",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const lock = await locker.acquire(key);
      const givingUp = new AbortController();
      const gaveUp = locker.elect(key, { signal: givingUp.signal, onElected: never });
      const ending = new AbortController();
      let isElected = false;
      const electing = locker.elect(key, {
        signal: ending.signal,
        onElected: () => {
          isElected = true;
          ending.abort();
        },
      });
      givingUp.abort();
      await gaveUp;
      // This call stands behind the other in line: by the time its wait has passed, the other could have been elected.
      assert.equal(await locker.tryAcquire(key, { wait: brief }), undefined);
      await whatIsDue();
      assert.equal(isElected, false);
      await lock.release();
      await electing;
      assert.equal(isElected, true);
    },
  },
  {
    says: "a leader whose work is done resigns, and stands again",
    run: async (given) => {
      const { locker, key } = given;
      const ending = new AbortController();
      let terms = 0;
      let isLeading = false;
      const electing = locker.elect(key, {
        signal: ending.signal,
        retryPeriod: 1,
        onElected: async (lock) => {
          assert.equal(isLeading, false);
          isLeading = true;
          await whatIsDue();
          assert(lock.held);
          isLeading = false;
          terms += 1;
        },
      });
      electing.catch(() => {});
      await until(given, () => terms >= 2, "a second term");
      ending.abort();
      await electing;
      await assertFree(locker, key);
    },
  },
  {
    says: "an error of a leader ends the election, with the lock released",
    run: async ({ locker, key }) => {
      const electing = locker.elect(key, {
        onElected: () => {
          throw error;
        },
      });
      await assertRejectsWith(electing, error);
      await assertFree(locker, key);
    },
  },
  {
    says: "onNewLeader is told of the leader, and may throw",
    run: async (given) => {
      const { locker, key } = given;
      const ending = new AbortController();
      const leaders: Leader[] = [];
      await locker.elect(key, {
        signal: ending.signal,
        onNewLeader: (leader) => {
          leaders.push(leader);
          throw error;
        },
        onElected: async () => {
          await until(given, () => leaders.length > 0, "onNewLeader is called");
          ending.abort();
        },
      });
      assert.deepEqual(
        leaders.map(({ isSelf }) => isSelf),
        [true],
      );
    },
  },
  {
    says: "close ends an election: its leader is told, and the call resolves when the leader has ended",
    run: async ({ locker, key, patience }) => {
      let reason: unknown;
      let isOver = false;
      const { running, end } = await underWay((work) =>
        locker.elect(key, {
          onElected: async (_, { signal }) => {
            await work();
            reason = signal.reason;
          },
        }),
      );
      const over = running.finally(() => {
        isOver = true;
      });
      const closing = locker.close({ drain: patience });
      await whatIsDue();
      assert.equal(isOver, false);
      end();
      await over;
      await assert.rejects(Promise.reject(reason), closed);
      await closing;
    },
  },
  {
    says: "elect refuses an invalid key, TTL or function, and an unknown option",
    run: async ({ locker, key }) => {
      const onElected = never;
      await assert.rejects(locker.elect("", { onElected }), emptyKey);
      await assert.rejects(locker.elect(key, { onElected, ttl: 0 }), invalidTtl);
      for (const [field, options] of [
        ["onElected", {}],
        ["onNewLeader", { onElected, onNewLeader: 42 }],
        ["retryPeriod", { onElected, retryPeriod: 0 }],
        ["signal", { onElected, signal: {} }],
        ["wait", { onElected, wait: true }],
      ] as const) {
        await assert.rejects(locker.elect(key, options as unknown as ElectOptions), invalid(field));
      }
      await locker.elect(key, { onElected, signal: AbortSignal.abort() });
      await assertFree(locker, key);
    },
  },
];
