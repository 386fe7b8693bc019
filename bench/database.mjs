import pg from "pg";
import { PostgresServer } from "../dist/testing/index.js";

/**
 * Runs `work` with the connection string of a PostgreSQL: the one in `DATABASE_URL`, otherwise a temporary one with these settings. Returns
 * the result of `work`, and the versions with which it was measured.
 */
export async function withDatabase(settings, work) {
  const server = process.env.DATABASE_URL ? undefined : await PostgresServer.start({ settings });
  const url = process.env.DATABASE_URL || server.url;
  try {
    return { ...(await environment(url)), ...(await work(url)) };
  } finally {
    await server?.[Symbol.asyncDispose]();
  }
}

/** Runs `work` with a new connection, which is closed afterwards. */
export async function withClient(url, work) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function environment(url) {
  const { rows } = await withClient(url, (client) =>
    client.query("select current_setting('server_version') as version"),
  );
  return {
    node: process.versions.node,
    postgres: rows[0].version,
    platform: `${process.platform}-${process.arch}`,
  };
}
