import pg from "pg";
import type { Session } from "./database.ts";
import { until } from "./until.ts";

/**
 * Makes every commit on the server at `url` wait for a synchronous standby that isn't there, and returns when one did.
 *
 * To see the setting isn't enough: whether a commit waits is said in shared memory, by the checkpointer, when that process has read the
 * new configuration, and on a busy machine this can be seconds later than in other sessions (`SyncRepUpdateSyncStandbysDefined`).
 */
export async function makeCommitsWait(url: string): Promise<void> {
  const client = (): Session => new pg.Client({ connectionString: url }) as Session;
  const [admin, writer] = [client(), client()];
  await Promise.all([admin.connect(), writer.connect()]);
  await admin.query("alter system set synchronous_standby_names = 'nobody'");
  await admin.query("select pg_reload_conf()");
  let done = true;
  const commitOneMore = async (): Promise<void> => {
    done = false;
    await writer.query("select pg_logical_emit_message(true, 'anything', '')");
    done = true;
  };
  let commit = Promise.resolve();
  const waits = "select from pg_stat_activity where wait_event = 'SyncRep' and pid = $1";
  try {
    await until(
      async () => {
        if (done) commit = commitOneMore();
        return (await admin.query(waits, [writer.processID])).rows.length === 1;
      },
      { deadline: 30_000, what: "a commit that waits for a standby" },
    );
    await admin.query("select pg_cancel_backend($1)", [writer.processID]);
    await commit;
  } finally {
    await Promise.all([admin.end(), writer.end()]);
  }
}
