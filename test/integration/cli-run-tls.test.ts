import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, stat } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import { expect, inject, test } from "vitest";
import { PostgresServer } from "../../src/testing/index.ts";
import { runLocked } from "../support/locked-command.ts";
import { until } from "../support/until.ts";

const withoutOpenssl = spawnSync("openssl", ["version"]).error !== undefined;
const patient = { deadline: 15_000 };

/** Has a server speak TLS, with a certificate made for the occasion. */
async function turnOnTls(server: PostgresServer, admin: pg.Client): Promise<void> {
  const [key, certificate] = ["key.pem", "certificate.pem"].map((name) => join(server.dataDirectory, name));
  const args = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
  const made = spawnSync("openssl", [...args, "-keyout", String(key), "-out", String(certificate)]);
  expect(made.status).toBe(0);
  const { uid, gid } = await stat(server.dataDirectory);
  for (const file of [key, certificate]) {
    await chmod(String(file), 0o600);
    await chown(String(file), uid, gid);
  }
  await admin.query("alter system set ssl_key_file to 'key.pem'");
  await admin.query("alter system set ssl_cert_file to 'certificate.pem'");
  await admin.query("alter system set ssl to 'on'");
  await admin.query("select pg_reload_conf()");
}

test.skipIf(withoutOpenssl)(
  "by TLS, too, the lock is refreshed, and outlives a SIGKILL of pg-locker until the command has ended (skipped without openssl)",
  async () => {
    await using server = await PostgresServer.start({ major: inject("postgresMajor") });
    const admin = new pg.Client({ connectionString: server.url });
    await admin.connect();
    try {
      await turnOnTls(server, admin);
      const url = `${server.url}?sslmode=no-verify`;
      await until(async () => {
        const client = new pg.Client({ connectionString: url });
        return client.connect().then(
          () => client.end().then(() => true),
          () => false,
        );
      }, patient);
      await using locked = await runLocked("trap '' TERM; while :; do sleep 0.1; done", {
        args: ["--ttl", "8s", "--grace", "3s"],
        env: { DATABASE_URL: url },
      });
      const holder = async () => {
        const { rows } = await admin.query<{ pid: number; at: string; ssl: boolean }>(
          `select pid, query_start::text as at, ssl
             from pg_locks join pg_stat_activity using (pid) join pg_stat_ssl using (pid)
            where locktype = 'advisory'`,
        );
        return rows[0];
      };
      const first = await holder();
      expect(first).toMatchObject({ ssl: true });
      await until(async () => (await holder())?.at !== first?.at, patient);
      locked.cli.signal("SIGKILL");
      await once(locked.cli.process, "exit");
      const kept = await holder();
      expect(locked.lives).toBe(true);
      expect(kept?.pid).toBe(first?.pid);
      await until(() => !locked.lives, patient);
      await until(async () => (await holder()) === undefined, patient);
    } finally {
      await admin.end();
    }
  },
  40_000,
);
