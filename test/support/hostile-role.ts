import pg from "pg";
import { createRole } from "./database.ts";

/** What no locker says, about a session of the given backend. */
function nonsense(pid: number): string[] {
  const about = `"pid":${pid},"namespace":0,"more":0`;
  return [
    "null",
    "[".repeat(7_999),
    `{${about},"locks":["\\ud800"]}`,
    `{${about},"locks":["\\udc41"]}`,
    `{${about},"locks":[null]}`,
    `{${about},"locks":[["k","${"9".repeat(50)}"]]}`,
    `{${about},"locks":{}}`,
    `{"pid":${pid},"namespace":9007199254740991,"more":0,"locks":["k"]}`,
  ];
}

/**
 * A role without privileges that answers each question for keys with nonsense about every session with locks, before the lockers do, and
 * sends nonsense as questions, too.
 */
export async function createHostileRole(): Promise<AsyncDisposable> {
  const role = await createRole();
  const client = new pg.Client({ connectionString: role.url });
  client.on("error", () => {});
  await client.connect();
  const said = new Set<Promise<unknown>>();
  const say = (channel: string, payloads: readonly string[]): void => {
    const sql = "select count(pg_notify($1, part)) from unnest($2::text[]) as part";
    const saying = client.query(sql, [channel, payloads]).finally(() => said.delete(saying));
    said.add(saying);
  };
  client.on("notification", async ({ payload = "" }) => {
    if (!payload.startsWith("pg_locker_reply_")) return;
    const { rows } = await client.query("select distinct pid from pg_locks where locktype = 'advisory'");
    say(
      payload,
      rows.flatMap(({ pid }) => nonsense(pid)),
    );
    say("pg_locker_keys", nonsense(0));
  });
  await client.query("listen pg_locker_keys");
  return {
    [Symbol.asyncDispose]: async () => {
      await Promise.allSettled(said);
      await client.end();
      await role[Symbol.asyncDispose]();
    },
  };
}
