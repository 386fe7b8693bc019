import type { TestProject } from "vitest/node";
import { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { POSTGRES_PACKAGE_VERSIONS, type PostgresMajor } from "../../src/testing/postgres/versions.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The connection string of the run's one server, as a role that may create databases. */
    readonly serverUrl: string;
    /** The major version in PG_MAJOR; tests that start servers of their own use it too. */
    readonly postgresMajor: PostgresMajor;
  }
}

let server: PostgresServer | undefined;

/** Starts one PostgreSQL for the whole run: the major version in PG_MAJOR (18 by default); none if DATABASE_URL names a server. */
export async function setup(project: TestProject): Promise<void> {
  const major = requestedMajor();
  const { DATABASE_URL } = process.env;
  if (!DATABASE_URL) server = await PostgresServer.start({ major });
  project.provide("serverUrl", DATABASE_URL || (server?.url ?? ""));
  project.provide("postgresMajor", major);
}

export async function teardown(): Promise<void> {
  await server?.[Symbol.asyncDispose]();
}

function requestedMajor(): PostgresMajor {
  const wanted = process.env["PG_MAJOR"] || "18";
  const majors = Object.keys(POSTGRES_PACKAGE_VERSIONS);
  if (!majors.includes(wanted))
    throw new Error(`Expected PG_MAJOR to be one of ${majors}, got \`${wanted}\``);
  return Number(wanted) as PostgresMajor;
}
