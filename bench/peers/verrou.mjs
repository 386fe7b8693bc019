// https://verrou.dev/docs/drivers#knex: a row of a table for each lock, by knex (kysely wants Node.js 22). `acquireImmediately()`
// inserts it, and tries an update where it is there; `release()` reads it and deletes it. A lock holds no connection.
import { Verrou } from "@verrou/core";
import { knexStore } from "@verrou/core/drivers/knex";
import createKnex from "knex";

/** knex's own default. With the 64 of the baseline it made fewer cycles a second. */
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
