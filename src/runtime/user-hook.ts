import { sentenceOf } from "../contract/errors.ts";
import { isThenable } from "./thenable.ts";

const warned = new Set<string>();

/**
 * Calls code of the user's: a logger, a meter, a tracer, an event of a pool. Whatever it throws changes nothing in here; the first
 * time that a hook of a kind does, Node.js prints a warning. A promise that it returns may reject.
 *
 * @returns what the hook returned; `undefined` if it threw
 */
export function callHook<T>(kind: string, hook: () => T): T | undefined {
  try {
    const returned = hook();
    if (isThenable(returned)) returned.then(undefined, (error: unknown) => warnOnce(kind, error));
    return returned;
  } catch (error) {
    warnOnce(kind, error);
    return undefined;
  }
}

function warnOnce(kind: string, error: unknown): void {
  if (warned.has(kind)) return;
  warned.add(kind);
  process.emitWarning(`the ${kind} threw, which is passed over: ${sentenceOf(error)}`, "PgLockerWarning");
}
