import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Locker } from "../../contract/locker.ts";
import type { Case, ContractDurations, LockerFixture } from "./fixture.ts";

/**
 * Runs a case on its own locker, and then closes the locker. Rejects if the locker breaks what the case says, also if that hasn't ended
 * within three times the `patience`.
 */
export async function runCase(
  create: () => Promise<LockerFixture>,
  { run }: Pick<Case, "run">,
): Promise<void> {
  const fixture = await create();
  const { brief = 100, spare = 1_000, patience = 10_000 } = fixture.durations ?? {};
  const ended = new AbortController();
  const late = delay(3 * patience, undefined, { signal: ended.signal }).then(() =>
    assert.fail(`the case hasn't ended within ${3 * patience} ms`),
  );
  late.catch(() => {});
  try {
    await Promise.race([runOn(fixture, run, { brief, spare, patience }), late]);
  } finally {
    ended.abort();
  }
}

async function runOn(
  fixture: LockerFixture,
  run: Case["run"],
  durations: Required<ContractDurations>,
): Promise<void> {
  const lockers: Locker[] = [];
  const use = (locker: Locker): Locker => {
    lockers.push(locker);
    return heard(locker);
  };
  const another = async () => {
    assert(fixture.another, 'give `another`, or declare the deviation "instance-local"');
    return use(await fixture.another());
  };
  const closed = () => Promise.all(lockers.map((locker) => locker.close()));
  const key = `contract:${randomUUID()}`;
  try {
    await run({ locker: use(fixture.locker), key, another, ...durations });
  } catch (error) {
    await closed().catch(() => {}); // The first error says more.
    throw error;
  }
  await closed();
}

/**
 * Wraps an object so that no rejection of its methods is unhandled: a case that has failed awaits none of its other calls, and an unhandled
 * rejection would end the process, with all its tests.
 */
function heard<T extends object>(of: T): T {
  const proxy: T = new Proxy(of, {
    get: (target, name) => {
      const member: unknown = Reflect.get(target, name, target);
      // A proxy has to return what can't change, such as a method of a frozen object, as it is.
      const isFixed = Reflect.getOwnPropertyDescriptor(target, name)?.configurable === false;
      return typeof member === "function" && !isFixed ? heard(member) : member;
    },
    apply: (target, self, given) => {
      const answer: unknown = Reflect.apply(target as never, originals.get(self) ?? self, given);
      if (answer instanceof Promise) answer.catch(() => {});
      // A semaphore, a namespace or a function that runs under a lock.
      else if (typeof answer === "function" || (typeof answer === "object" && answer !== null))
        return heard(answer);
      return answer;
    },
  });
  originals.set(proxy, of);
  return proxy;
}

const originals = new WeakMap<object, object>();
