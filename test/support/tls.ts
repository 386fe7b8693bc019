import { spawnSync } from "node:child_process";
import { chmod, chown, stat } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import type { PostgresServer } from "../../src/testing/index.ts";
import { until } from "./until.ts";

/** The program that makes the certificates. */
export const hasOpenssl = spawnSync("openssl", ["version"]).error === undefined;

/** Has a server use TLS, with a new certificate for `localhost`. Resolves when it does. */
export async function turnOnTls(
  server: PostgresServer,
  admin: pg.Client,
): Promise<{ url: string; certificate: string }> {
  const [key, certificate] = ["key.pem", "certificate.pem"].map((name) =>
    join(server.dataDirectory, name),
  ) as [string, string];
  const args = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
  const made = spawnSync("openssl", [...args, "-keyout", key, "-out", certificate]);
  if (made.status !== 0) throw new Error(String(made.stderr));
  const { uid, gid } = await stat(server.dataDirectory);
  for (const file of [key, certificate]) {
    await chmod(file, 0o600);
    await chown(file, uid, gid);
  }
  await admin.query("alter system set ssl_key_file to 'key.pem'");
  await admin.query("alter system set ssl_cert_file to 'certificate.pem'");
  await admin.query("alter system set ssl to 'on'");
  await admin.query("select pg_reload_conf()");
  const url = `${server.url}?sslmode=no-verify`;
  await until(
    async () => {
      const client = new pg.Client({ connectionString: url });
      return client.connect().then(
        () => client.end().then(() => true),
        () => false,
      );
    },
    { deadline: 15_000 },
  );
  return { url, certificate };
}
