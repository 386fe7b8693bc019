import { AsyncResource } from "node:async_hooks";

const outside = new AsyncResource("pg-locker");

/**
 * Calls a user's listener outside every caller's async context. A socket, a timer or a statement may serve several callers, but runs in
 * the context of the one that happened to start it, and a listener must not find another caller's `AsyncLocalStorage` there
 * (https://nodejs.org/api/async_context.html).
 */
export function callOutside(listener: () => void): void {
  outside.runInAsyncScope(listener);
}
