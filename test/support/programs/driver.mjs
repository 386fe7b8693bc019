// The driver of a test's row, for its programs: node-postgres, or what DRIVER says. See vitest.config.ts.
const url = process.env.DATABASE_URL;
const isOverPostgresJs = process.env.DRIVER === "postgres.js";

/** An `sql` of postgres.js, on which nothing is run. */
async function sqlOf(settings) {
  const { default: postgres } = await import("postgres");
  return postgres(url, { onnotice: () => {}, ...settings });
}

/** What a locker is told of how to reach the database, and what ends that. */
export async function reach({ max = 10 } = {}) {
  if (isOverPostgresJs) return { way: { sql: await sqlOf({ max }) }, end: async () => {} };
  const { default: pg } = await import("pg");
  const pool = new pg.Pool({ connectionString: url, max });
  return { way: { pool }, end: () => pool.end() };
}

/** As {@link reach}, for a locker whose connections are its own with either driver. */
export async function reachByItself() {
  return isOverPostgresJs ? { sql: await sqlOf() } : { connectionString: url };
}
