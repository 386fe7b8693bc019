import { beforeEach } from "vitest";
import { connect } from "./database.ts";

// A table into which functions write under a lock, to show what was committed.

export const write = "insert into written values ($1)";

/** Creates the table, or empties it, before each test of a file. */
export function emptyWrittenTable(): void {
  beforeEach(async () => {
    const client = await connect();
    await client.query("create table if not exists written (what text primary key)");
    await client.query("truncate written");
  });
}

/** The rows of the table, sorted. */
export async function written(): Promise<string[]> {
  const client = await connect();
  const { rows } = await client.query<{ what: string }>("select what from written order by what");
  return rows.map(({ what }) => what);
}
