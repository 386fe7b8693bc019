// What fits as the client of a transaction. Checked by `tsc`, never run: an error that goes missing is an error.
import type { Client, PoolClient } from "pg";
import type { PostgresLocker, TransactionClient } from "../../src/index.ts";

declare const locker: PostgresLocker;
/** A client as ORMs have it: a statement, its values, and rows by the names of their columns. */
declare const orm: {
  run(sql: string, parameters?: readonly unknown[]): Promise<Array<Record<string, unknown>>>;
};

export async function compiles(
  client: Client,
  poolClient: PoolClient,
): Promise<readonly TransactionClient[]> {
  const adapter: TransactionClient = {
    query: async (text, values) => {
      const statement: string = text;
      return { rows: await orm.run(statement, values) };
    },
  };
  const rows: Array<Record<string, unknown>> = await locker.withTransaction(
    "key",
    async (transaction) => (await transaction.query("select $1::int as one", [1])).rows,
    { client: adapter },
  );
  await locker.withTransaction("key", (transaction) => transaction.query("select 1", []));
  return rows.length > 0 ? [client, poolClient] : [adapter];
}

export function doesNotCompile(): readonly TransactionClient[] {
  // @ts-expect-error rows are objects by name, not arrays
  const arrays: TransactionClient = { query: async () => ({ rows: [[1]] }) };
  // @ts-expect-error a statement is a text, not an object
  const config: TransactionClient = { query: async (config: { text: string }) => ({ rows: [config] }) };
  // @ts-expect-error an answer is awaited
  const callback: TransactionClient = { query: (_text: string, _values?: unknown[]) => {} };
  return [arrays, config, callback];
}
