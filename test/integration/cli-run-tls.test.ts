import { once } from "node:events";
import pg from "pg";
import { expect, test } from "vitest";
import { runLocked } from "../support/locked-command.ts";
import { startServer } from "../support/start-server.ts";
import { hasOpenssl, turnOnTls } from "../support/tls.ts";
import { until } from "../support/until.ts";

const patient = { deadline: 15_000 };

test.skipIf(!hasOpenssl)(
  "over TLS, the lock is refreshed and outlives a SIGKILL (skipped without openssl)",
  async () => {
    await using server = await startServer();
    const admin = new pg.Client({ connectionString: server.url });
    await admin.connect();
    try {
      const { url } = await turnOnTls(server, admin);
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
