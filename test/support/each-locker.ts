import { MemoryLocker, type MemoryLockerOptions, type TransactionLocker } from "../../src/index.ts";
import { createLocker } from "./locker.ts";

/** Rows for `describe.each`, for tests that hold wherever locks live. */
export const eachLocker: ReadonlyArray<
  readonly [string, (options?: MemoryLockerOptions) => TransactionLocker]
> = [
  ["PostgresLocker", (options = {}) => createLocker({ ...options })],
  ["MemoryLocker", (options = {}) => new MemoryLocker(options)],
];
