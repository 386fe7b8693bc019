import assert from "node:assert/strict";
import type { LockEventName, LockEvents } from "../../contract/lock-events.ts";
import type { Locker } from "../../contract/locker.ts";
import { assertFree, type Case, inTime, invalid, lapsed, until } from "./fixture.ts";

/** Collects the events that a locker emits from now on for one key. */
function heard(locker: Locker, key: string): Array<{ name: LockEventName; event: LockEvents["acquired"] }> {
  const told: Array<{ name: LockEventName; event: LockEvents["acquired"] }> = [];
  for (const name of ["acquired", "released", "lost", "waiting"] as const) {
    locker.on(name, (event) => {
      if (event.key === key) told.push({ name, event: event as LockEvents["acquired"] });
    });
  }
  return told;
}

/** Cases about the events of locks. */
export const eventCases: readonly Case[] = [
  {
    says: "a lock is reported as acquired, and as released by its holder",
    run: async (given) => {
      const { locker, key } = given;
      const told = heard(locker, key);
      const lock = await locker.acquire(key, { ttl: "1m", mode: "shared", fencing: true });
      const { id, fencingToken } = lock;
      await lock.release();
      await assert.rejects(lock.release());
      await until(given, () => told.length >= 2, "two events");
      const [acquired, released] = told.map(({ name, event }) => {
        const { namespace, waited, ...rest } = event;
        return { name, namespace: typeof namespace, waited: waited === undefined || waited >= 0, ...rest };
      });
      const facts = { key, id, ttl: 60_000, namespace: "number", waited: true };
      assert.deepEqual(acquired, { name: "acquired", ...facts, mode: "shared", fencingToken });
      assert.deepEqual(released, { name: "released", ...facts });
      await locker.acquire(`${key}:other`);
      assert.equal(told.length, 2);
    },
  },
  {
    says: "a wait is reported once, and then the grant",
    run: async (given) => {
      const { locker, key } = given;
      const lock = await locker.acquire(key);
      const told = heard(locker, key);
      const waiting = locker.acquire(key, { wait: true, mode: "shared" });
      await until(given, () => told.length > 0, "the event");
      await lock.release();
      await waiting;
      await until(given, () => told.length >= 3, "three events");
      const names = told.map(({ name }) => name).sort();
      assert.deepEqual(names, ["acquired", "released", "waiting"]);
      assert.deepEqual([told[0]?.name, told[0]?.event.mode], ["waiting", "shared"]);
    },
  },
  {
    says: "a lock that lapses is reported as lost, with its signal's reason, and not as released",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key } = given;
      const lock = await lapsed(given);
      const told = heard(locker, key);
      await lock[Symbol.asyncDispose]();
      const second = heard(locker, `${key}:second`);
      const { signal } = await lapsed(given, { key: `${key}:second` });
      await until(given, () => second.length >= 2, "two events");
      const [, lost] = second as unknown as Array<{ name: string; event: LockEvents["lost"] }>;
      assert.deepEqual([lost?.name, lost?.event.reason], ["lost", signal.reason]);
      assert(!told.some(({ name }) => name === "released"), "it was told of as released");
    },
  },
  {
    says: "a lock that lapses is reported as lost before it is reported as acquired by the next holder",
    unless: "lapsed-lock-stays",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, brief } = given;
      const told = heard(locker, key);
      await inTime(given, () => locker.acquire(key, { ttl: brief }));
      await (await locker.acquire(key, { wait: true })).release();
      await until(given, () => told.some(({ name }) => name === "released"), "the last event");
      const names = told.map(({ name }) => name).filter((name) => name !== "waiting");
      assert.deepEqual(names.slice(-4), ["acquired", "lost", "acquired", "released"]);
    },
  },
  {
    says: "a lock that close ends is reported as lost",
    run: async (given) => {
      const { locker, key } = given;
      const told = heard(locker, key);
      const { signal } = await locker.acquire(key);
      await locker.close();
      await until(given, () => told.length >= 2, "two events");
      const [, lost] = told as unknown as Array<{ name: string; event: LockEvents["lost"] }>;
      assert.deepEqual([lost?.name, lost?.event.reason], ["lost", signal.reason]);
    },
  },
  {
    says: "a listener isn't called once it is removed, and what it throws changes nothing",
    run: async (given) => {
      const { locker, key } = given;
      let calls = 0;
      let others = 0;
      const stop = locker.on("acquired", () => {
        calls += 1;
        throw new Error("a listener that throws, as a case of the contract wants it");
      });
      locker.on("acquired", () => {
        others += 1;
      });
      await assertFree(locker, key);
      await until(given, () => calls === 1 && others === 1, "both listeners are told");
      stop();
      await assertFree(locker, key);
      await until(given, () => others === 2, "the other listener is told");
      assert.equal(calls, 1);
    },
  },
  {
    says: "an unknown event is refused, and so is a listener that is not a function",
    run: async ({ locker }) => {
      assert.throws(() => locker.on("taken" as "acquired", () => {}), invalid("event"));
      assert.throws(() => locker.on("acquired", undefined as unknown as () => void), invalid("listener"));
    },
  },
];
