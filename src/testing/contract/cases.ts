import { closeCases } from "./cases-close.ts";
import { electionCases } from "./cases-elections.ts";
import { eventCases } from "./cases-events.ts";
import { expiryCases } from "./cases-expiry.ts";
import { groupCases } from "./cases-groups.ts";
import { holdAtLeastCases } from "./cases-hold-at-least.ts";
import { inspectionCases } from "./cases-inspection.ts";
import { keyCases } from "./cases-keys.ts";
import { lockCases } from "./cases-locks.ts";
import { namespaceCases } from "./cases-namespaces.ts";
import { reentrantCases } from "./cases-reentrant.ts";
import { scopeCases } from "./cases-scopes.ts";
import { semaphoreCases } from "./cases-semaphores.ts";
import { waitingCases } from "./cases-waiting.ts";
import { withLocksCases } from "./cases-with-locks.ts";
import type { Case } from "./fixture.ts";

/** The contract of a `Locker`, sentence by sentence. */
export const cases: readonly Case[] = [
  ...lockCases,
  ...keyCases,
  ...expiryCases,
  ...waitingCases,
  ...scopeCases,
  ...reentrantCases,
  ...groupCases,
  ...withLocksCases,
  ...holdAtLeastCases,
  ...namespaceCases,
  ...inspectionCases,
  ...eventCases,
  ...semaphoreCases,
  ...electionCases,
  ...closeCases,
];
