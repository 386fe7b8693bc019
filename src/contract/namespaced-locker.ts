import type { Locker } from "./locker.ts";

/** What `locker.namespace` returns. */
export interface NamespacedLocker extends Omit<Locker, "close" | typeof Symbol.asyncDispose> {}
