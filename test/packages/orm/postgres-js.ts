import { fromPostgresJs } from "pg-locker/orm";
import postgres from "postgres";
import type { OpenTransaction, Orm } from "./orm.ts";

export function open(url: string): Orm {
  const sql = postgres(url, { transform: postgres.pascal, onnotice: () => {} });
  const opened = (tx: postgres.TransactionSql): OpenTransaction => ({
    client: fromPostgresJs(tx),
    again: () => fromPostgresJs(tx),
    write: async (what) => await tx`insert into written ${tx({ what })}`,
    nested: async (run) => {
      await tx.savepoint((inner) => run(opened(inner)));
    },
    commitEarly: async () => await tx`commit`,
  });
  return {
    name: "postgres.js",
    transaction: async (run) => {
      await sql.begin((tx) => run(opened(tx)));
    },
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromPostgresJs(undefined),
      // @ts-expect-error the `sql` itself is no transaction
      "the sql": () => fromPostgresJs(sql),
    },
    end: () => sql.end(),
  };
}
