import { isatty } from "node:tty";
import { lockId } from "../../contract/lock-id.ts";
import type { LockInfo } from "../../index.ts";
import type { Values } from "../command.ts";
import type { RunPlan } from "./plan.ts";

/** Milliseconds of a wait before somebody may wonder. */
const whileUnnoticed = 500;

/**
 * Says on standard error, in a line, who holds the lock that is waited for, once the wait has lasted a moment: in a terminal, where
 * somebody may wonder, and nowhere else. It looks over a connection of its own. What it can't find out, it doesn't say.
 */
export function tellWhoHolds(plan: RunPlan, values: Values): Disposable {
  const over = new AbortController();
  const tell = (): void => {
    lineFor(plan, values, over.signal).then(
      (line) => {
        if (line !== undefined && !over.signal.aborted) console.error(line);
      },
      // Whoever waits will hear of it.
      () => {},
    );
  };
  const timer = plan.wait !== 0 && isatty(2) ? setTimeout(tell, whileUnnoticed) : undefined;
  return {
    [Symbol.dispose]() {
      clearTimeout(timer);
      over.abort();
    },
  };
}

async function lineFor(plan: RunPlan, values: Values, signal: AbortSignal): Promise<string | undefined> {
  const { key, namespace } = plan;
  const [{ listLocks }, { connect }, { ago, descriptionLine, plain }] = await Promise.all([
    import("../../inspection/lock-list.ts"),
    import("../database.ts"),
    import("../lock-table.ts"),
  ]);
  const database = await connect(values, { max: 1, signal });
  try {
    const locks = await listLocks(database.pool, { id: lockId(namespace, key) });
    const [holder, ...others] = locks.filter(({ state }) => state === "held");
    if (holder === undefined) return undefined;
    const where = holder.host === undefined || holder.host === "local" ? "" : ` on ${plain(holder.host)}`;
    const who = `${plain(holder.user ?? nameOf(holder))}${where} (pid ${holder.pid})`;
    const said = holder.description === undefined ? "" : `; it says: ${descriptionLine(holder.description)}`;
    const more = others.length === 0 ? "" : ` and ${others.length} more`;
    const since = ago(holder.sessionSince, new Date());
    const age = since === undefined ? "" : `, for ${since} at most`;
    return `pg-locker: waiting for ${JSON.stringify(key)}, held by ${who}${more}${age}${said}`;
  } finally {
    // Not waited for: the wait may be over by then.
    database[Symbol.asyncDispose]().then(undefined, () => {});
  }
}

function nameOf({ applicationName }: LockInfo): string {
  return applicationName === undefined || applicationName === "" ? "somebody" : applicationName;
}
