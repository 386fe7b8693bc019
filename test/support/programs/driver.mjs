// The driver for the programs of tests: node-postgres, or the one that DRIVER names. See vitest.config.ts.
const url = process.env.DATABASE_URL;
const isOverPostgresJs = process.env.DRIVER === "postgres.js";

/** An `sql` of postgres.js, on which nothing is run. */
async function sqlOf(settings) {
  const { default: postgres } = await import("postgres");
  return postgres(url, { onnotice: () => {}, ...settings });
}

/** The options by which a locker reaches the database, and a function that ends what they hold. */
export async function reach({ max = 10 } = {}) {
  if (isOverPostgresJs) return { way: { sql: await sqlOf({ max }) }, end: async () => {} };
  const { default: pg } = await import("pg");
  const pool = new pg.Pool({ connectionString: url, max });
  return { way: { pool }, end: () => pool.end() };
}

/** Does the same as {@link reach}, for a locker that makes its own connections with either driver. */
export async function reachByItself() {
  return isOverPostgresJs ? { sql: await sqlOf() } : { connectionString: url };
}
