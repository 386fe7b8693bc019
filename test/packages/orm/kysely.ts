import {
  CamelCasePlugin,
  type ControlledTransaction,
  Kysely,
  PostgresDialect,
  sql,
  type Transaction,
} from "kysely";
import pg from "pg";
import { fromKysely } from "pg-locker/orm";
import type { OpenTransaction, Orm } from "./orm.ts";

interface Database {
  written: { what: string };
}

function database(url: string): Kysely<Database> {
  const pool = new pg.Pool({ connectionString: url });
  pool.on("connect", (client) => client.on("error", () => {}));
  return new Kysely<Database>({
    dialect: new PostgresDialect({ pool }),
    plugins: [new CamelCasePlugin()],
  });
}

export function open(url: string): Orm {
  const db = database(url);
  const opened = (trx: Transaction<Database>): OpenTransaction => ({
    client: fromKysely(trx),
    again: () => fromKysely(trx),
    write: (what) => trx.insertInto("written").values({ what }).execute(),
    nested: async (run) => {
      await sql`savepoint nested`.execute(trx);
      try {
        await run(opened(trx));
      } catch (error) {
        await sql`rollback to savepoint nested`.execute(trx);
        throw error;
      }
    },
    commitEarly: () => sql`commit`.execute(trx),
  });
  return {
    name: "Kysely",
    transaction: (run) => db.transaction().execute((trx) => run(opened(trx))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromKysely(undefined),
      // @ts-expect-error a Kysely is no transaction
      "the Kysely": () => fromKysely(db),
    },
    end: () => db.destroy(),
  };
}

/** Transactions that the caller commits. */
export function openControlled(url: string): Orm {
  const db = database(url);
  const opened = (trx: ControlledTransaction<Database, string[]>): OpenTransaction => ({
    client: fromKysely(trx),
    again: () => fromKysely(trx),
    write: (what) => trx.insertInto("written").values({ what }).execute(),
    nested: async (run) => {
      const savepoint = await trx.savepoint("nested").execute();
      try {
        await run(opened(savepoint as ControlledTransaction<Database, string[]>));
      } catch (error) {
        await trx.rollbackToSavepoint("nested").execute();
        throw error;
      }
    },
    commitEarly: () => trx.commit().execute(),
  });
  return {
    name: "Kysely, controlled",
    transaction: async (run) => {
      const trx = await db.startTransaction().execute();
      try {
        await run(opened(trx as ControlledTransaction<Database, string[]>));
        await trx.commit().execute();
      } catch (error) {
        if (!trx.isCommitted) await trx.rollback().execute();
        throw error;
      }
    },
    mistakes: {},
    end: () => db.destroy(),
  };
}
