import { expect, test } from "vitest";
import { LockerClosedError, lockId, MemoryLocker } from "../../src/index.ts";
import { until } from "../support/until.ts";

test("an acquireAll that is between two of its tries takes nothing after close()", async () => {
  let refusals = 0;
  const debug = (facts: object): void => {
    if ("outcome" in facts && facts.outcome === "held") refusals += 1;
  };
  const locker = new MemoryLocker({ logger: { debug, info() {}, warn() {}, error() {} } });
  // They are taken in the order of their ids: with the first one held, nothing is.
  const [first = "", second = ""] = ["a", "b"].sort((a, b) => (lockId(0, a) < lockId(0, b) ? -1 : 1));
  await locker.acquire(first);
  const outcome = locker.acquireAll([first, second]).catch((error: unknown) => error);
  // It goes on trying for a moment.
  await until(() => refusals >= 2);
  await locker.close();
  expect(await outcome).toBeInstanceOf(LockerClosedError);
  expect(locker.stats()).toMatchObject({ locks: 0, inFlight: 0 });
});
