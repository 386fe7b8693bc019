import { AsyncResource } from "node:async_hooks";

const outside = new AsyncResource("pg-locker");

/**
 * Calls a listener of the user's outside every caller's async context. What ends a lock or tells of it serves several callers: a socket, a
 * timer, a statement. Each of them runs in the context of the caller that happened to begin it, and one caller's listener must not find
 * another caller's `AsyncLocalStorage` there (https://nodejs.org/api/async_context.html).
 */
export function callOutside(listener: () => void): void {
  outside.runInAsyncScope(listener);
}
