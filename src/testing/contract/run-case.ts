import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Case, LockerFixture } from "./fixture.ts";

/** Runs a case on its own locker, and then closes the locker. Rejects if the locker breaks what the case says. */
export async function runCase(
  create: () => Promise<LockerFixture>,
  { run }: Pick<Case, "run">,
): Promise<void> {
  const fixture = await create();
  const { brief = 100, spare = 1_000, patience = 10_000 } = fixture.durations ?? {};
  const lockers = [fixture.locker];
  const another = async () => {
    assert(fixture.another, 'give `another`, or declare the deviation "instance-local"');
    const locker = await fixture.another();
    lockers.push(locker);
    return locker;
  };
  const closed = () => Promise.all(lockers.map((locker) => locker.close()));
  const key = `contract:${randomUUID()}`;
  try {
    await run({ locker: fixture.locker, key, another, brief, spare, patience });
  } catch (error) {
    await closed().catch(() => {}); // The first error says more.
    throw error;
  }
  await closed();
}
