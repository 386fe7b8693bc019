import pg from "pg";
import { expect, test, vi } from "vitest";
import { listLocks, lockId } from "../../src/index.ts";
import { cli } from "../support/cli.ts";
import { startServer } from "../support/start-server.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

test("a prepared transaction's lock shows its gid, and break says what frees it", async () => {
  const settings = { max_prepared_transactions: 5 };
  await using server = await startServer({ settings });
  const pool = new pg.Pool({ connectionString: server.url, max: 1 });
  pool.on("error", () => {});
  const env = { DATABASE_URL: server.url };
  const id = lockId(0, "nightly");
  try {
    await pool.query(`begin; select pg_advisory_xact_lock(${id}); prepare transaction 'order''s 7'`);
    const [lock, ...others] = await listLocks(pool);
    expect(others).toEqual([]);
    expect(lock).toMatchObject({ id, pid: undefined, preparedTransaction: "order's 7", state: "held" });
    expect(lock).toMatchObject({ user: "postgres", activeAt: expect.any(Date) as Date, isHidden: false });

    const who = await cli(["who", "nightly"], { env });
    expect([who.status, who.stderr]).toEqual([0, ""]);
    expect(who.stdout).toMatch(
      /^held +exclusive +- +postgres +- .* nightly\nThe prepared transaction 'order''s 7' has no/m,
    );
    expect((await cli(["ls"], { env })).stdout).toMatch(/ \[prepared order's 7\]\nThe prepared/);
    const json = JSON.parse((await cli(["who", "nightly", "--json"], { env })).stdout) as unknown;
    expect(json).toMatchObject([{ pid: null, preparedTransaction: "order's 7" }]);
    const refused = await cli(["run", "nightly", "--no-fencing", "--", "true"], { env });
    expect(refused).toMatchObject({
      status: 75,
      stderr: `pg-locker: Lock "nightly" not acquired: it is held by the prepared transaction 'order's 7'\n`,
    });
    const broken = await cli(["break", "nightly", "--yes"], { env });
    expect(broken.status).toBe(70);
    expect(broken.stdout).toMatch(/: COMMIT PREPARED 'order''s 7' or ROLLBACK PREPARED 'order''s 7' frees/);
    expect(broken.stderr).toMatch(
      /^pg-locker: The lock is held by the prepared transaction "order's 7", .*\n$/,
    );
    expect((await cli(["run", "nightly", "--", "true"], { env })).status).toBe(75);

    await server.restart();
    expect((await cli(["who", "nightly"], { env })).stdout).toContain("'order''s 7'");

    await pool.query("rollback prepared 'order''s 7'");
    expect((await cli(["who", "nightly"], { env })).status).toBe(1);

    // If a session holds the lock too, the session is ended, and the prepared transaction is named.
    await pool.query(`begin; select pg_advisory_xact_lock_shared(${id}); prepare transaction 'two'`);
    await pool.query(`select pg_advisory_lock_shared(${id})`);
    const both = await cli(["break", "nightly", "--yes"], { env });
    expect(both).toMatchObject({ status: 70, stdout: expect.stringMatching(/\nEnded: \d+\n$/) });
    expect(both.stderr).toContain('prepared transaction "two"');
    await pool.query("rollback prepared 'two'");
  } finally {
    await pool.end();
  }
}, 60_000);
