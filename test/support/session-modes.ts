import { isOverPostgresJs } from "./driver.ts";

/**
 * The two kinds of sessions of a locker. A test that holds for both is in a
 * `describe.each(sessionModes)("with %s sessions", (sessions) => …)`, and passes `sessions` to each locker that it makes.
 * To run one kind alone: `npx vitest run test/integration/waiting.test.ts -t "with dedicated sessions"`.
 */
export const sessionModes = ["shared", "dedicated"] as const;

/** The {@link sessionModes} for a file that takes long: over postgres.js, for which they make no difference, one kind is enough. */
export const costlyModes = isOverPostgresJs ? (["shared"] as const) : sessionModes;
