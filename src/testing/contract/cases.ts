import { closeCases } from "./cases-close.ts";
import { expiryCases } from "./cases-expiry.ts";
import { groupCases } from "./cases-groups.ts";
import { lockCases } from "./cases-locks.ts";
import { scopeCases } from "./cases-scopes.ts";
import { waitingCases } from "./cases-waiting.ts";
import type { Case } from "./fixture.ts";

/** The contract of a `Locker`, sentence by sentence. */
export const cases: readonly Case[] = [
  ...lockCases,
  ...expiryCases,
  ...waitingCases,
  ...scopeCases,
  ...groupCases,
  ...closeCases,
];
