import { cases } from "./cases.ts";
import type { LockerDeviation, LockerFixture } from "./fixture.ts";
import { runCase } from "./run-case.ts";

/** Of vitest, of `node:test` and of jest. */
export interface ContractRunner {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly test: {
    (name: string, body: () => Promise<void>): unknown;
    skip(name: string, body: () => Promise<void>): unknown;
  };
}

export interface LockerContractOptions {
  readonly runner: ContractRunner;
  /** Called once a test. */
  readonly create: () => Promise<LockerFixture>;
  /**
   * Where the locker differs. The tests that a deviation rules out show as skipped, under its name.
   *
   * @default none
   */
  readonly deviations?: readonly LockerDeviation[];
  /**
   * Whether the cases that let time pass, some twenty, run ten at a time, with a locker each: in the first of their tests, of which
   * the others then tell the outcome. That takes a quarter of the time. What `create` makes must outlive the test that it is called in.
   *
   * @default false
   */
  readonly concurrent?: boolean;
}

/**
 * Declares the tests that every `Locker` has to pass, with the runner given.
 *
 * @example
 * testLockerContract("MemoryLocker", {
 *   runner: { describe, test },
 *   create: async () => ({ locker: new MemoryLocker() }),
 *   deviations: ["instance-local", "lapsed-lock-stays"],
 * });
 */
export function testLockerContract(name: string, options: LockerContractOptions): void {
  const { runner, create, deviations = [], concurrent = false } = options;
  const isRuledOut = ({ unless }: { unless?: LockerDeviation }) =>
    unless !== undefined && deviations.includes(unless);
  // The longest first, so that nobody waits for one of them alone.
  const patient = (["spare", "brief"] as const).flatMap((time) =>
    cases.filter((one) => concurrent && one.letsPass === time && !isRuledOut(one)),
  );
  let outcomes: Promise<ReadonlyArray<PromiseSettledResult<void> | undefined>> | undefined;
  runner.describe(`${name} keeps the contract of a Locker`, () => {
    for (const one of cases) {
      const { says, unless } = one;
      const place = patient.indexOf(one);
      if (isRuledOut(one)) runner.test.skip(`${says} (deviation: ${unless})`, () => runCase(create, one));
      else if (place === -1) runner.test(says, () => runCase(create, one));
      else {
        runner.test(says, async () => {
          outcomes ??= tenAtATime(patient.map((each) => () => runCase(create, each)));
          const outcome = (await outcomes)[place];
          if (outcome?.status === "rejected") throw outcome.reason;
        });
      }
    }
  });
}

/** More would all connect at once, which is what a small machine is slowest at. */
async function tenAtATime(
  work: ReadonlyArray<() => Promise<void>>,
): Promise<ReadonlyArray<PromiseSettledResult<void> | undefined>> {
  const outcomes: PromiseSettledResult<void>[] = [];
  const left = [...work.entries()];
  const goOn = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [place, run] = next;
      const [outcome] = await Promise.allSettled([run()]);
      outcomes[place] = outcome;
    }
  };
  await Promise.all(Array.from({ length: 10 }, goOn));
  return outcomes;
}
