import { isatty } from "node:tty";
import type { Values } from "../command.ts";
import { holderOf } from "./holder.ts";
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
  const { connect } = await import("../database.ts");
  const database = await connect(values, { max: 1, signal });
  try {
    const holder = await holderOf(database.pool, plan);
    return holder && `pg-locker: waiting for ${JSON.stringify(plan.key)}, held by ${holder}`;
  } finally {
    // Not waited for: the wait may be over by then.
    database[Symbol.asyncDispose]().then(undefined, () => {});
  }
}
