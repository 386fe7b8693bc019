import { AssertionError } from "node:assert/strict";
import { expect, test } from "vitest";
import { DatabaseError, LockerError } from "../../src/index.ts";
import { atATime } from "../../src/testing/contract/at-a-time.ts";
import { cases } from "../../src/testing/contract/cases.ts";
import { transactionCases } from "../../src/testing/contract/cases-transaction.ts";
import { type LockerContractOptions, testLockerContract } from "../../src/testing/contract/contract-suite.ts";
import { runCase } from "../../src/testing/contract/run-case.ts";
import { closeMutants } from "../support/contract-mutants/close.ts";
import { electionMutants } from "../support/contract-mutants/elections.ts";
import { eventMutants } from "../support/contract-mutants/events.ts";
import { expiryMutants } from "../support/contract-mutants/expiry.ts";
import { groupMutants } from "../support/contract-mutants/groups.ts";
import { holdAtLeastMutants } from "../support/contract-mutants/hold-at-least.ts";
import { inspectionMutants } from "../support/contract-mutants/inspection.ts";
import { keyMutants } from "../support/contract-mutants/keys.ts";
import { lockMutants } from "../support/contract-mutants/locks.ts";
import { Broken, type Mutant } from "../support/contract-mutants/mutant.ts";
import { namespaceMutants } from "../support/contract-mutants/namespaces.ts";
import { reentrantMutants } from "../support/contract-mutants/reentrant.ts";
import { scopeMutants } from "../support/contract-mutants/scopes.ts";
import { semaphoreMutants } from "../support/contract-mutants/semaphores.ts";
import { transactionMutants } from "../support/contract-mutants/transactions.ts";
import { waitingMutants } from "../support/contract-mutants/waiting.ts";
import { withLocksMutants } from "../support/contract-mutants/with-locks.ts";

// Lockers that each break one promise. The contract suite must fail all of them, and each of its cases must fail at least one, because a
// case that fails none proves nothing.

const mutants = [
  ...lockMutants,
  ...keyMutants,
  ...expiryMutants,
  ...waitingMutants,
  ...scopeMutants,
  ...reentrantMutants,
  ...groupMutants,
  ...withLocksMutants,
  ...holdAtLeastMutants,
  ...namespaceMutants,
  ...inspectionMutants,
  ...eventMutants,
  ...semaphoreMutants,
  ...electionMutants,
  ...closeMutants,
  ...transactionMutants,
];

const allCases = [...cases, ...transactionCases];

/** The error of the mutant's own case; `undefined` if that passes. */
async function verdictOn(mutant: Mutant): Promise<unknown> {
  const one = allCases.find(({ says }) => says === mutant.caughtBy);
  if (one === undefined) throw new Error(`there is no such case: ${mutant.caughtBy}`);
  for (let tries = 1; ; tries += 1) {
    const made = mutant.create();
    const verdict = await runCase(async () => made, one).then(
      () => undefined,
      (error: unknown) => error,
    );
    await made.end();
    // On a busy machine, a short TTL may pass before its lock is granted. No mutant fails by that.
    if (!(verdict instanceof DatabaseError) || tries === 5) return verdict;
  }
}

// Several at a time, because most of the time they wait. All at once would take longer to begin than their TTLs last.
const verdicts = atATime(
  40,
  mutants.map((mutant) => () => verdictOn(mutant)),
);

test.each(mutants.map(({ does, caughtBy }, at) => ({ does, caughtBy, at })))(
  "$does: $caughtBy",
  async ({ at }) => {
    const verdict = await verdicts[at];
    // And not because the mutant is broken in another way.
    expect(verdict).not.toBeInstanceOf(DatabaseError);
    expect(
      [AssertionError, LockerError, Broken].filter((kind) => verdict instanceof kind),
      String(verdict),
    ).not.toEqual([]);
  },
);

test("no two mutants do the same", () => {
  const all = mutants.map(({ does }) => does);
  expect(all.filter((does, at) => all.indexOf(does) !== at)).toEqual([]);
});

test("each case of the contract fails a mutant", () => {
  const proved = new Set(mutants.map(({ caughtBy }) => caughtBy));
  expect(allCases.map(({ says }) => says).filter((says) => !proved.has(says))).toEqual([]);
});

/** Runs all tests of a suite. Returns the titles of those that fail, and of those that are ruled out. */
async function suiteOf(
  create: LockerContractOptions["create"],
): Promise<{ failed: string[]; skipped: string[] }> {
  const bodies = new Map<string, () => Promise<void>>();
  const skipped: string[] = [];
  const runner = {
    describe: (_: string, body: () => void) => body(),
    test: Object.assign((name: string, body: () => Promise<void>) => void bodies.set(name, body), {
      skip: (name: string) => void skipped.push(name),
    }),
  };
  testLockerContract("a mutant", { runner, create, deviations: ["instance-local"], concurrent: true });
  const failed: string[] = [];
  for (const [name, body] of bodies) await body().catch(() => failed.push(name));
  expect(bodies.size + skipped.length).toBe(cases.length);
  return { failed, skipped };
}

test("the tests of a suite tell which cases failed, and which are ruled out", async () => {
  const one = mutants.find(({ does }) => does === "withLock doesn't refresh") as Mutant;
  // Everything else must pass, even on a busy machine.
  const durations = { brief: 30, spare: 1_000 };
  const { failed, skipped } = await suiteOf(async () => ({ ...one.create(), durations }));
  expect(failed).toEqual([one.caughtBy]);
  expect(skipped).toContain("two lockers contend (deviation: instance-local)");
});

test("a call that never ends fails its own cases alone", async () => {
  const one = mutants.find(({ does }) => does === "a ping is never answered") as Mutant;
  const { failed } = await suiteOf(async () => ({
    ...one.create(),
    durations: { brief: 30, patience: 1_000 },
  }));
  expect(failed).toContain(one.caughtBy);
  expect(failed).not.toContain("an empty key is refused");
});
