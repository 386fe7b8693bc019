// The library, but that a locker has dedicated sessions where a test asks for none in particular: see vitest.config.ts.
import { type PostgresLockerOptions, PostgresLocker as SharedByDefault } from "../../src/index.ts";

// biome-ignore lint/performance/noReExportAll: a stand-in for all of it
export * from "../../src/index.ts";

export class PostgresLocker extends SharedByDefault {
  constructor(options: PostgresLockerOptions) {
    super(options && { sessions: "dedicated", ...options });
  }
}
