import { expect, test } from "vitest";
import { LockerError, lockId, MemoryLocker } from "../../src/index.ts";

test("an acquireAll that is between two of its tries takes nothing after close()", async () => {
  let refusals = 0;
  let closed: Promise<void> | undefined;
  const debug = (facts: object): void => {
    if (!("outcome" in facts) || facts.outcome !== "held") return;
    refusals += 1;
    // It keeps trying for a moment, and is about to pause.
    if (refusals === 2) closed = locker.close();
  };
  const locker = new MemoryLocker({ logger: { debug, info() {}, warn() {}, error() {} } });
  // They are taken in the order of their ids: while the first one is held, none is taken.
  const [first = "", second = ""] = ["a", "b"].sort((a, b) => (lockId(0, a) < lockId(0, b) ? -1 : 1));
  await locker.acquire(first);
  const outcome = await locker.acquireAll([first, second]).catch((error: unknown) => error);
  await closed;
  // On a busy machine, that moment may have passed before.
  expect(outcome).toBeInstanceOf(LockerError);
  expect(locker.stats()).toMatchObject({ locks: 0, inFlight: 0 });
});
