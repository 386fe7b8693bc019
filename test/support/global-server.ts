import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { postgresAccount } from "../../src/testing/postgres/account.ts";
import { postgresBinaries } from "../../src/testing/postgres/binaries.ts";
import { createDataDirectory } from "../../src/testing/postgres/data-directory.ts";
import { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { cleanUpAfterProcess, type StopWatching } from "../../src/testing/postgres/process-watchdog.ts";
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
let template: { readonly directory: string; readonly stopWatching: StopWatching } | undefined;

/** Starts one PostgreSQL for the whole run: the major version in PG_MAJOR (18 by default); none if DATABASE_URL names a server. */
export async function setup(project: TestProject): Promise<void> {
  const major = requestedMajor();
  const { DATABASE_URL } = process.env;
  await makeTemplate(major);
  if (!DATABASE_URL) server = await PostgresServer.start({ major });
  project.provide("serverUrl", DATABASE_URL || (server?.url ?? ""));
  project.provide("postgresMajor", major);
}

export async function teardown(): Promise<void> {
  await server?.[Symbol.asyncDispose]();
  if (template === undefined) return;
  await rm(template.directory, { recursive: true, force: true });
  template.stopWatching();
}

/** Runs `initdb` once, for the hundred servers that tests start. */
async function makeTemplate(major: PostgresMajor): Promise<void> {
  const account = postgresAccount();
  const directory = await mkdtemp(join(tmpdir(), "pg-locker-template-"));
  template = { directory, stopWatching: cleanUpAfterProcess(directory) };
  if (account) await chown(directory, account.uid, account.gid);
  const to = join(directory, "data");
  const { INITDB_TEMPLATE: _, ...env } = process.env;
  const options = { ...account, cwd: directory, env: { ...env, LC_ALL: "C" } };
  await createDataDirectory(to, { major, binaries: await postgresBinaries(major, account), options });
  process.env["INITDB_TEMPLATE"] = to;
}

function requestedMajor(): PostgresMajor {
  const wanted = process.env["PG_MAJOR"] || "18";
  const majors = Object.keys(POSTGRES_PACKAGE_VERSIONS);
  if (!majors.includes(wanted))
    throw new Error(`Expected PG_MAJOR to be one of ${majors}, got \`${wanted}\``);
  return Number(wanted) as PostgresMajor;
}
