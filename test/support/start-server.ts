import { inject } from "vitest";
import { PostgresServer, type PostgresServerOptions } from "../../src/testing/postgres/postgres-server.ts";

/** A PostgreSQL of the test's own, of the run's major: for what would disturb others on the run's one server. */
export function startServer(options: Omit<PostgresServerOptions, "major"> = {}): Promise<PostgresServer> {
  return PostgresServer.start({ ...options, major: inject("postgresMajor") });
}
