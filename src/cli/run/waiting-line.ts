import { isatty } from "node:tty";
import { plain, quote } from "../../contract/plain-text.ts";
import type { Values } from "../command.ts";
import { tellUser } from "../tell-user.ts";
import { holderOf } from "./holder.ts";
import type { RunPlan } from "./plan.ts";

/** Milliseconds of a wait before a user may wonder about it. */
const whileUnnoticed = 500;

/**
 * Says on standard error, in one line, who holds the lock, if the wait lasts longer than a moment, and standard error is a terminal. It
 * looks over a connection of its own. If it can't find out, it says nothing.
 */
export function tellWhoHolds(plan: RunPlan, values: Values): Disposable {
  const over = new AbortController();
  const look = (): void => {
    lineFor(plan, values, over.signal).then(
      (line) => {
        if (line !== undefined && !over.signal.aborted) tellUser(plain(line));
      },
      // If the look failed, `acquire` will report why.
      () => {},
    );
  };
  const timer = plan.wait !== 0 && isatty(2) ? setTimeout(look, whileUnnoticed) : undefined;
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
    return holder && `pg-locker: waiting for ${quote(plan.key)}, held by ${holder}`;
  } finally {
    // Not awaited, because the wait may already be over.
    database[Symbol.asyncDispose]().then(undefined, () => {});
  }
}
