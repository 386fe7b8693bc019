/** Whether the lockers of this run reach the database over postgres.js: see vitest.config.ts. */
export const isOverPostgresJs = process.env["DRIVER"] === "postgres.js";
