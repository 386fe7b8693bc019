import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Locker } from "../../contract/locker.ts";
import { cases } from "./cases.ts";
import { waitingCases } from "./cases-waiting.ts";
import type { Case, LockerDeviation } from "./fixture.ts";

/** Of vitest, of `node:test` and of jest. */
export interface ContractRunner {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly test: {
    (name: string, body: () => Promise<void>): unknown;
    skip(name: string, body: () => Promise<void>): unknown;
  };
}

export interface LockerFixture {
  /** Grants at least eight locks at once. The suite closes it. */
  readonly locker: Locker;
  /** A second locker, built separately on the same store. The suite closes it. */
  readonly another?: () => Locker | Promise<Locker>;
}

export interface LockerContractOptions {
  readonly runner: ContractRunner;
  /** Called once a test. */
  readonly create: () => Promise<LockerFixture>;
  /** Default: none. The tests that a deviation rules out show as skipped, under its name. */
  readonly deviations?: readonly LockerDeviation[];
}

/**
 * Declares the tests that every `Locker` has to pass, with the runner given.
 *
 * @example
 * testLockerContract("MemoryLocker", {
 *   runner: { describe, test },
 *   create: async () => ({ locker: new MemoryLocker() }),
 *   deviations: ["instance-local"],
 * });
 */
export function testLockerContract(name: string, options: LockerContractOptions): void {
  const { runner, create, deviations = [] } = options;
  runner.describe(`${name} keeps the contract of a Locker`, () => {
    for (const { says, unless, run } of [...cases, ...waitingCases]) {
      const body = () => runCase(create, run);
      if (unless !== undefined && deviations.includes(unless)) {
        runner.test.skip(`${says} (deviation: ${unless})`, body);
      } else {
        runner.test(says, body);
      }
    }
  });
}

async function runCase(create: () => Promise<LockerFixture>, run: Case["run"]): Promise<void> {
  const fixture = await create();
  const lockers = [fixture.locker];
  const another = async () => {
    assert(fixture.another, 'give `another`, or declare the deviation "instance-local"');
    const locker = await fixture.another();
    lockers.push(locker);
    return locker;
  };
  try {
    await run({ locker: fixture.locker, key: `contract:${randomUUID()}`, another });
  } finally {
    await Promise.all(lockers.map((locker) => locker.close()));
  }
}
