import { beforeEach } from "vitest";
import { connect } from "./database.ts";

// A table that functions write into under a lock, to see what was committed.

export const write = "insert into written values ($1)";

/** Has the table there, and empty, before each test of a file. */
export function emptyWrittenTable(): void {
  beforeEach(async () => {
    const client = await connect();
    await client.query("create table if not exists written (what text primary key)");
    await client.query("truncate written");
  });
}

/** What is in the table, sorted. */
export async function written(): Promise<string[]> {
  const client = await connect();
  const { rows } = await client.query<{ what: string }>("select what from written order by what");
  return rows.map(({ what }) => what);
}
