import { type Locker, MemoryLocker, type MemoryLockerOptions, PostgresLocker } from "../../src/index.ts";
import { createPool } from "./database.ts";

/** For `describe.each`: what holds wherever locks live. */
export const eachLocker: ReadonlyArray<readonly [string, (options?: MemoryLockerOptions) => Locker]> = [
  ["PostgresLocker", (options = {}) => new PostgresLocker({ pool: createPool(), ...options })],
  ["MemoryLocker", (options = {}) => new MemoryLocker(options)],
];
