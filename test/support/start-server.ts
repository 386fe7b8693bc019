import { inject } from "vitest";
import { PostgresServer, type PostgresServerOptions } from "../../src/testing/postgres/postgres-server.ts";

/** Starts a PostgreSQL of the run's major version, for a test that would disturb others on the shared server. */
export function startServer(options: Omit<PostgresServerOptions, "major"> = {}): Promise<PostgresServer> {
  return PostgresServer.start({ ...options, major: inject("postgresMajor") });
}
