// https://verrou.dev/docs/drivers#knex: a table row for each lock, through knex (kysely needs Node.js 22). `acquireImmediately()` inserts
// the row, and tries an update if it already exists; `release()` reads and deletes it. A lock holds no connection.
import { Verrou } from "@verrou/core";
import { knexStore } from "@verrou/core/drivers/knex";
import createKnex from "knex";

/** knex's default pool size. With the baseline's 64 connections, it ran fewer cycles a second. */
const connections = 10;

export const verrou = {
  title: "@verrou/core, a row a lock",
  package: "@verrou/core",
  on: "PostgreSQL",
  async start({ url }) {
    const knex = createKnex({ client: "pg", connection: url, pool: { min: 0, max: connections } });
    const table = "pg_locker_bench_verrou";
    const locks = new Verrou({
      default: "database",
      stores: { database: { driver: knexStore({ connection: knex, tableName: table }) } },
    });
    return {
      caller(key) {
        const lock = locks.createLock(key, "30s");
        return async () => {
          if (!(await lock.acquireImmediately())) throw new Error(`${key} is held`);
          await lock.release();
        };
      },
      connections: () => knex.client.pool.numUsed() + knex.client.pool.numFree(),
      async end() {
        await knex.schema.dropTableIfExists(table);
        await knex.destroy();
      },
    };
  },
};
