import type { Locker } from "./locker.ts";

/** A locker whose keys have a prefix, as `locker.namespace` returns it. It has no `close()`: the locker itself is closed. */
export interface NamespacedLocker extends Omit<Locker, "close" | typeof Symbol.asyncDispose> {}
