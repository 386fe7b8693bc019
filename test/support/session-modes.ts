/**
 * The two kinds of sessions that a locker has. What holds for both is in a
 * `describe.each(sessionModes)("with %s sessions", (sessions) => …)`, whose tests hand `sessions` to each locker that they make.
 * One kind alone: `npx vitest run test/integration/waiting.test.ts -t "with dedicated sessions"`.
 */
export const sessionModes = ["shared", "dedicated"] as const;
