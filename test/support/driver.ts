/** Whether the lockers of this run use postgres.js: see vitest.config.ts. */
export const isOverPostgresJs = process.env["DRIVER"] === "postgres.js";
