import { readFileSync } from "node:fs";

/** The system user as which a server process runs. */
export interface PostgresAccount {
  readonly uid: number;
  readonly gid: number;
}

/**
 * The account as which to run PostgreSQL, or `undefined` for the current user.
 *
 * PostgreSQL refuses to run as root, so for root it is the system user `postgres` if there is one, otherwise `nobody`. No user is
 * ever created.
 *
 * @throws Error if this process runs as root and the system has neither user.
 */
export function postgresAccount(): PostgresAccount | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const accounts = new Map<string, PostgresAccount>();
  for (const line of readFileSync("/etc/passwd", "utf8").split("\n")) {
    const [name, , uid, gid] = line.split(":");
    if (name && uid && gid) accounts.set(name, { uid: Number(uid), gid: Number(gid) });
  }
  const account = accounts.get("postgres") ?? accounts.get("nobody");
  if (!account)
    throw new Error("PostgreSQL can't run as root, and this system has no user `postgres` or `nobody`");
  return account;
}
