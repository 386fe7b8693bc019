import { sentenceOf } from "../contract/caught-error.ts";
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
    if (isThenable(returned)) returned.then(undefined, (error: unknown) => hookThrew(kind, error));
    return returned;
  } catch (error) {
    hookThrew(kind, error);
    return undefined;
  }
}

/** What {@link callHook} does about an error: for a hook that is called too often for a function around it. */
export function hookThrew(kind: string, error: unknown): void {
  if (warned.has(kind)) return;
  warned.add(kind);
  process.emitWarning(`the ${kind} threw, which is passed over: ${sentenceOf(error)}`, "PgLockerWarning");
}
