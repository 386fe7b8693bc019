import type { Pool } from "pg";
import { formatDuration } from "../../contract/duration.ts";
import { plain, quote } from "../../contract/plain-text.ts";
import type { LockInfo } from "../../index.ts";
import { Failure, refusalOf, statusOf } from "../failure.ts";
import { atMost, type PassedSignals } from "./passed-signals.ts";
import type { RunPlan } from "./plan.ts";

/** Milliseconds in which a refused run tries to find out who holds the lock. */
const patience = 1_000;

/**
 * Who holds a lock, in words: `app on 10.0.0.7 (pid 16313), for 29s at most`. The time is the age of the session.
 *
 * @returns `undefined` if nobody holds it any more
 * @throws {DatabaseError} it can't be found out
 * @throws the signal's `reason` if it aborts
 */
export async function holderOf(
  pool: Pool,
  { id }: Pick<RunPlan, "id">,
  signal?: AbortSignal,
): Promise<string | undefined> {
  const [{ listLocks }, { ago, descriptionLine }] = await Promise.all([
    import("../../inspection/lock-list.ts"),
    import("../lock-table.ts"),
  ]);
  const locks = await listLocks(pool, { id, ...(signal && { signal }) });
  const [holder, ...others] = locks.filter(({ state }) => state === "held");
  if (holder === undefined) return undefined;
  const more = others.length === 0 ? "" : ` and ${others.length} more`;
  if (holder.preparedTransaction !== undefined) {
    return `the prepared transaction '${plain(holder.preparedTransaction)}'${more}`;
  }
  const where = holder.host === undefined || holder.host === "local" ? "" : ` on ${plain(holder.host)}`;
  const who = `${plain(holder.user ?? nameOf(holder))}${where} (pid ${holder.pid})`;
  const said = holder.description === undefined ? "" : `; it says: ${descriptionLine(holder.description)}`;
  const since = ago(holder.sessionSince, new Date());
  const age = since === undefined ? "" : `, for ${since} at most`;
  return `${who}${more}${age}${said}`;
}

function nameOf({ applicationName }: LockInfo): string {
  return applicationName === undefined || applicationName === "" ? "somebody" : applicationName;
}

/**
 * The failure of a run because somebody else holds the lock. It says who that is, if that can be found out within a second. Never rejects.
 *
 * @param error an error whose {@link refusalOf} is `"held"` or `"still held"`
 */
export async function refused(
  error: unknown,
  { plan, pool, signals }: { plan: RunPlan; pool: Pool; signals: PassedSignals },
): Promise<Failure> {
  const { key, wait, conflictStatus = statusOf(error) } = plan;
  const look = holderOf(pool, plan).catch(() => undefined);
  const holder = await atMost(patience, signals, look);
  const waited = refusalOf(error) === "still held" && wait !== true ? ` after ${formatDuration(wait)}` : "";
  const by = holder === undefined ? "elsewhere" : `by ${holder}`;
  const sentence = `Lock ${quote(key)} not acquired${waited}: it is held ${by}${around(plan)}`;
  return new Failure(conflictStatus, sentence, { cause: error });
}

/** A hint for a run within a run of the same key: it waits for a lock that can't be released before it ends. */
function around({ id }: RunPlan): string {
  return process.env["PG_LOCKER_ID"] === String(id) ? "; this is a run within a run of the same key" : "";
}
