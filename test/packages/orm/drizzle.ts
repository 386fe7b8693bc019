import { sql } from "drizzle-orm";
import { drizzle, type NodePgDatabase } from "drizzle-orm/node-postgres";
import { pgTable, text } from "drizzle-orm/pg-core";
import { drizzle as drizzlePostgresJs, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import pg from "pg";
import type { PostgresLocker } from "pg-locker";
import { fromDrizzle } from "pg-locker/orm";
import postgres from "postgres";
import type { OpenTransaction, Orm } from "./orm.ts";

const written = pgTable("written", { what: text().primaryKey() });

type NodePgTransaction = Parameters<Parameters<NodePgDatabase["transaction"]>[0]>[0];
type PostgresJsTransaction = Parameters<Parameters<PostgresJsDatabase["transaction"]>[0]>[0];

export function open(url: string): Orm {
  const pool = new pg.Pool({ connectionString: url });
  pool.on("connect", (client) => client.on("error", () => {}));
  const db = drizzle({ client: pool });
  const opened = (tx: NodePgTransaction): OpenTransaction => ({
    client: fromDrizzle(tx),
    again: () => fromDrizzle(tx),
    write: async (what) => await tx.insert(written).values({ what }),
    nested: (run) => tx.transaction((inner) => run(opened(inner))),
    commitEarly: async () => await tx.execute(sql`commit`),
  });
  return {
    name: "Drizzle on node-postgres",
    transaction: (run) => db.transaction((tx) => run(opened(tx))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromDrizzle(undefined),
      // @ts-expect-error the database is no transaction
      "the database": () => fromDrizzle(db),
    },
    end: () => pool.end(),
  };
}

export function openOnPostgresJs(url: string): Orm {
  const client = postgres(url, { onnotice: () => {} });
  const db = drizzlePostgresJs({ client });
  const opened = (tx: PostgresJsTransaction): OpenTransaction => ({
    client: fromDrizzle(tx),
    again: () => fromDrizzle(tx),
    write: async (what) => await tx.insert(written).values({ what }),
    nested: (run) => tx.transaction((inner) => run(opened(inner))),
    commitEarly: async () => await tx.execute(sql`commit`),
  });
  return {
    name: "Drizzle on postgres.js",
    transaction: (run) => db.transaction((tx) => run(opened(tx))),
    mistakes: {
      // @ts-expect-error the database is no transaction
      "the database": () => fromDrizzle(db),
    },
    end: () => client.end(),
  };
}

/** Drizzle on the client of the locker's own transaction. Its `transaction` sends a `begin` and a `commit` of its own there. */
export async function nestedInTheLockers(locker: PostgresLocker, key: string): Promise<void> {
  await locker.withTransaction(key, async (client: pg.PoolClient) => {
    const db = drizzle({ client });
    await db.insert(written).values({ what: "outer" });
    await db.transaction(async (tx) => void (await tx.insert(written).values({ what: "inner" })));
  });
}

/** Drizzle on the client of the locker's own transaction, as intended. */
export async function inTheLockers(locker: PostgresLocker, key: string): Promise<void> {
  await locker.withTransaction(key, async (client: pg.PoolClient) => {
    await drizzle({ client }).insert(written).values({ what: "outer" });
  });
}
