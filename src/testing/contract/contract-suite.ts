import { atATime } from "./at-a-time.ts";
import { cases } from "./cases.ts";
import { transactionCases } from "./cases-transaction.ts";
import type { LockerDeviation, LockerFixture } from "./fixture.ts";
import { runCase } from "./run-case.ts";

/** The functions of a test runner: those of vitest, `node:test` and jest fit. */
export interface ContractRunner {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly test: {
    (name: string, body: () => Promise<void>): unknown;
    skip(name: string, body: () => Promise<void>): unknown;
  };
}

export interface LockerContractOptions {
  /**
   * The test runner with which the tests are declared.
   *
   * @example
   * testLockerContract("MyLocker", { runner: { describe, test }, create });
   */
  readonly runner: ContractRunner;
  /**
   * Creates the locker for a test. Called once for each test.
   *
   * @example
   * testLockerContract("MyLocker", { runner, create: async () => ({ locker: new MyLocker(store) }) });
   */
  readonly create: () => Promise<LockerFixture>;
  /**
   * How the locker differs from the contract. Tests that a deviation rules out are skipped, with its name in their titles.
   *
   * @default none
   * @example
   * testLockerContract("MyLocker", { runner, create, deviations: ["instance-local"] });
   */
  readonly deviations?: readonly LockerDeviation[];
  /**
   * Whether the cases run ten at a time, each with its own locker, which takes a fraction of the time. They all run in the first of their
   * tests, also if a filter selects a single one, and the other tests report their outcomes. What `create` makes must outlive the test in
   * which it is called.
   *
   * @default false
   * @example
   * testLockerContract("MyLocker", { runner, create, concurrent: true });
   */
  readonly concurrent?: boolean;
  /**
   * Whether the lockers are `TransactionLocker`s, so that `withTransaction` is tested too.
   *
   * @default false
   * @example
   * testLockerContract("MyLocker", { runner, create, transactions: true });
   */
  readonly transactions?: boolean;
}

/**
 * Declares the tests that every `Locker` must pass, with the given test runner.
 *
 * @example
 * testLockerContract("MemoryLocker", {
 *   runner: { describe, test },
 *   create: async () => ({ locker: new MemoryLocker() }),
 *   deviations: ["instance-local", "lapsed-lock-stays"],
 * });
 */
export function testLockerContract(name: string, options: LockerContractOptions): void {
  const { runner, create, deviations = [], concurrent = false, transactions = false } = options;
  const tested = transactions ? [...cases, ...transactionCases] : cases;
  const isRuledOut = ({ unless }: { unless?: LockerDeviation }) =>
    unless !== undefined && deviations.includes(unless);
  // The longest cases first, so that none of them runs alone at the end.
  const together = (["spare", "brief", undefined] as const).flatMap((time) =>
    tested.filter((one) => concurrent && one.letsPass === time && !isRuledOut(one)),
  );
  let outcomes: ReadonlyArray<Promise<void>> | undefined;
  runner.describe(`${name} keeps the contract of a Locker`, () => {
    for (const one of tested) {
      const { says, unless } = one;
      const place = together.indexOf(one);
      if (isRuledOut(one)) runner.test.skip(`${says} (deviation: ${unless})`, () => runCase(create, one));
      else if (place === -1) runner.test(says, () => runCase(create, one));
      else {
        runner.test(says, async () => {
          if (outcomes === undefined) {
            // More would all connect at once, which is what a small machine is slowest at.
            outcomes = atATime(
              10,
              together.map((each) => () => runCase(create, each)),
            );
            // Whatever follows a test, such as a look for what it has left, comes after the cases.
            await Promise.allSettled(outcomes);
          }
          await outcomes[place];
        });
      }
    }
  });
}
