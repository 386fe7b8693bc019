import { isOverPostgresJs } from "./driver.ts";

/**
 * The two kinds of sessions that a locker has. What holds for both is in a
 * `describe.each(sessionModes)("with %s sessions", (sessions) => …)`, whose tests hand `sessions` to each locker that they make.
 * One kind alone: `npx vitest run test/integration/waiting.test.ts -t "with dedicated sessions"`.
 */
export const sessionModes = ["shared", "dedicated"] as const;

/** As {@link sessionModes}, for a file that takes long; over postgres.js, which makes no difference between them, one kind is enough. */
export const costlyModes = isOverPostgresJs ? (["shared"] as const) : sessionModes;
