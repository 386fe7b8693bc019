import { isatty } from "node:tty";
import type { Pool } from "pg";
import { quote } from "../../contract/plain-text.ts";
import { tellUser } from "../tell-user.ts";
import { holderOf } from "./holder.ts";
import type { RunPlan } from "./plan.ts";

/** Milliseconds of a wait before a user may wonder about it. */
const whileUnnoticed = 500;

/**
 * Says on standard error, in one line, who holds the lock, if the wait lasts longer than a moment, and standard error is a terminal. It
 * looks on a connection beside the pool. If it can't find out, it says nothing.
 */
export function tellWhoHolds(plan: RunPlan, pool: Pool): Disposable {
  const over = new AbortController();
  const look = (): void => {
    holderOf(pool, plan, over.signal).then(
      (holder) => {
        if (holder === undefined || over.signal.aborted) return;
        tellUser(`pg-locker: waiting for ${quote(plan.key)}, held by ${holder}`);
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
