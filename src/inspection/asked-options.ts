import { isSignal } from "../contract/acquire-options.ts";
import { milliseconds } from "../contract/duration.ts";
import { InvalidConfigError } from "../contract/errors.ts";
import {
  type Check,
  exactly,
  type Fault,
  is,
  oneOf,
  optional,
  poolCheck,
  trueOrFalse,
} from "../contract/option-checks.ts";

const int64 = is("a bigint, as `lockId` returns", (value) => {
  return typeof value === "bigint" && BigInt.asIntN(64, value) === value;
});

const list = exactly("an object", {
  id: optional(int64),
  keysWithin: optional(
    is('a duration, such as 500 or "500ms"', (value) => {
      const patience = milliseconds(value);
      return patience !== undefined && patience >= 0 && patience !== Number.POSITIVE_INFINITY;
    }),
  ),
  signal: optional(is("an AbortSignal", isSignal)),
});

const holders = exactly("an object { id, pids }", {
  id: int64,
  pids: is("an array of process ids", (value) => Array.isArray(value) && value.every(Number.isSafeInteger)),
});

const diagnosis = exactly("an object", {
  deadline: optional(
    is('a positive duration such as 5000 or "5s"', (value) => {
      const deadline = milliseconds(value);
      return deadline !== undefined && deadline > 0 && deadline !== Number.POSITIVE_INFINITY;
    }),
  ),
  pooler: optional(oneOf("refuse", "session")),
  fencing: optional(trueOrFalse),
  ttlEnforcement: optional(oneOf("client", "server")),
});

const asked = { list, holders, diagnosis } satisfies Record<string, Check>;

/**
 * Checks what a function of this folder is called with. An option that is misspelt or of the wrong type throws, because ignoring it could
 * make a held lock look free.
 *
 * @throws {InvalidConfigError} names the first thing that is wrong
 */
export function assertAsked(pool: unknown, what: keyof typeof asked, options: unknown): void {
  // A connection string in place of a pool has a password in it.
  assertNone(poolCheck(pool, "pool"), { secret: true });
  assertNone(asked[what](options, ""), { whole: what === "holders" ? "lock" : "options" });
}

/** `whole`: the name of the argument, if the fault is not in one of its fields. */
function assertNone(fault: Fault | undefined, { whole = "", secret = false }): void {
  if (fault === undefined) return;
  const { path, got, wants } = fault;
  throw new InvalidConfigError({ field: path || whole, got, wants, secret });
}
