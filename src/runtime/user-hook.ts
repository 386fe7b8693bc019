import { sentenceOf } from "../contract/caught-error.ts";
import { isThenable } from "./thenable.ts";

const warned = new Set<string>();

/**
 * Calls the user's code: a logger, a meter, a tracer, an event of a pool. An error of that code changes nothing in the library; on the
 * first one of each kind of hook, Node.js prints a warning. A promise that the hook returns may reject: that counts as an error, too.
 *
 * @returns what the hook returned, or `undefined` if it threw
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

/** Handles an error of a hook as {@link callHook} does, for hooks that are called too often to create a function for each call. */
export function hookThrew(kind: string, error: unknown): void {
  if (warned.has(kind)) return;
  warned.add(kind);
  process.emitWarning(`the ${kind} threw, which is ignored: ${sentenceOf(error)}`, "PgLockerWarning");
}
