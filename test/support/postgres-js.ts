import postgres from "postgres";
import { databaseUrl } from "./database.ts";

export type Settings = postgres.Options<Record<string, postgres.PostgresType>>;

/** An `sql` of postgres.js on this file's database. A locker runs nothing on it, so it doesn't have to be ended. */
export function sqlOf(settings: Settings = {}, url = databaseUrl()): postgres.Sql<Record<string, unknown>> {
  return postgres(url, { onnotice: () => {}, ...settings }) as postgres.Sql<Record<string, unknown>>;
}
