import { existsSync } from "node:fs";
import { expect, test, vi } from "vitest";
import { UserState } from "../support/own-server.ts";
import { lives } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

// Each test starts a server, and many Node.js processes.
vi.setConfig({ testTimeout: 60_000 });

const patient = { deadline: 15_000, interval: 50 };

test("ten commands that start at once start one server, and each names it", async () => {
  await using user = await UserState.create();
  const ended = await Promise.all(Array.from({ length: 10 }, () => user.cli(["ls"])));
  const where = `Database postgres on ${user.folder}/socket (port 5432) (your own PostgreSQL)`;
  expect(ended.map(({ status, stdout }) => [status, stdout])).toEqual(
    Array(10).fill([0, `${where}\nNo locks\n`]),
  );
  const said = ended.map(({ stderr }) => stderr).sort();
  const begin = "pg-locker: no database is named (--url, DATABASE_URL): ";
  const end = "; its locks hold only on this machine (use --local if that is intended)\n";
  const started = `${begin}started PostgreSQL for this user in ${user.folder}; it stops when unused for 60 seconds${end}`;
  const used = `${begin}using the PostgreSQL of this user in ${user.folder}${end}`;
  expect(said).toEqual([started, ...Array(9).fill(used)]);
  expect(user.servers()).toHaveLength(1);
  expect(user.processes().filter(({ command }) => command.includes("/program.js"))).toHaveLength(1);

  const { pid } = await user.status();
  expect(user.servers()).toEqual([pid]);
  // Later commands use the same server, and say so each time, except with --local.
  expect(await user.cli(["ls"])).toMatchObject({ status: 0, stderr: used });
  expect(await user.cli(["ls", "--local"])).toMatchObject({ status: 0, stderr: "" });
  expect(user.servers()).toEqual([pid]);
});

test("run, ls, who, break and doctor all use one's own server", async () => {
  await using user = await UserState.create();
  expect((await user.cli(["run", "k", "--", "sh", "-c", "exit 42"])).status).toBe(42);
  await using holder = await user.hold();
  expect(await user.cli(["run", "k", "--", "true"])).toMatchObject({ status: 75 });
  expect((await user.cli(["ls"])).stdout).toMatch(/^held +exclusive .* k$/m);
  expect((await user.cli(["who", "k"])).status).toBe(0);
  expect((await user.cli(["who", "other"])).status).toBe(1);
  const examined = await user.cli(["doctor", "--local"]);
  expect(examined).toMatchObject({ status: 0, stderr: "" });
  expect(examined.stdout).toMatch(/\nFit for locks\n$/);
  expect((await user.cli(["break", "k", "--yes"])).status).toBe(0);
  expect(await holder.ended).toMatchObject({ status: 79 });
});

test("a named database is used instead, and no server is started or created", async () => {
  await using user = await UserState.create();
  const named = [{ DATABASE_URL: "postgres://127.0.0.1:1/x" }, { PGHOST: "127.0.0.1", PGPORT: "1" }];
  for (const env of named) {
    const { status, stderr } = await user.cli(["run", "k", "--", "true"], env);
    expect([status, stderr]).toEqual([69, expect.stringContaining("ECONNREFUSED")]);
  }
  expect((await user.cli(["ls", "--url", "postgres://127.0.0.1:1/x"])).status).toBe(69);
  expect(existsSync(user.folder)).toBe(false);
});

test("server status says whether the server runs, where, and who uses it", async () => {
  await using user = await UserState.create();
  const none = `No PostgreSQL of your own runs in ${user.folder}\n`;
  expect(await user.cli(["server", "status"])).toMatchObject({ status: 1, stdout: none, stderr: "" });
  const shown = await user.cli(["server", "status", "--json"]);
  expect(JSON.parse(shown.stdout)).toEqual({ state: "stopped", folder: user.folder });
  expect(await user.cli(["server", "stop"])).toMatchObject({ status: 0, stdout: none, stderr: "" });
  expect(existsSync(user.folder)).toBe(false);

  await using holder = await user.hold();
  const { status, stdout } = await user.cli(["server", "status"]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^running +PostgreSQL \d+\.\d+, since .*, pid \d+, kept by pid \d+$/m);
  expect(stdout).toContain(`folder   ${user.folder}\n`);
  expect(stdout).toContain('used by  1 command and 1 session ("pg-locker 0 k")\n');
  expect(stdout).toContain("stops    when unused for 60 seconds\n");
  holder.process.stdin?.end();
  expect((await holder.ended).status).toBe(0);
  const { stdout: json } = await user.cli(["server", "status", "--json"]);
  expect(JSON.parse(json)).toMatchObject({ state: "running", folder: user.folder, users: 0, sessions: [] });
  expect((JSON.parse(json) as { idleTimeLeft: number }).idleTimeLeft).toBeLessThanOrEqual(60_000);
});

test("server stop refuses while it is in use; with --force the command is stopped", async () => {
  await using user = await UserState.create();
  await using holder = await user.hold();
  const refused = await user.cli(["server", "stop"]);
  expect([refused.status, refused.stdout]).toEqual([1, ""]);
  expect(refused.stderr).toMatch(/^pg-locker: It is in use by 1 command and 1 session .*: --force .*\n$/);
  expect(user.servers()).toHaveLength(1);

  const stopped = `Stopped the PostgreSQL in ${user.folder}\n`;
  expect(await user.cli(["server", "stop", "--force"])).toMatchObject({ status: 0, stdout: stopped });
  const { status, stderr } = await holder.ended;
  expect([status, stderr]).toEqual([79, expect.stringMatching(/; the command was stopped\n$/)]);
  await user.isEmpty();
});

test("one's own server stops when unused, but not during a long command", async () => {
  await using user = await UserState.create();
  const short = { PG_LOCKER_SERVER_IDLE_SECONDS: "1" };
  await using holder = await user.hold(short);
  const { pid = 0, since = "", keeper } = await user.status();
  const age = () => Date.now() - Date.parse(since);
  await until(() => age() > 4_000 || !lives(pid), patient);
  expect(await user.status()).toMatchObject({ pid, keeper, state: "running" });
  holder.process.stdin?.end();
  expect((await holder.ended).status).toBe(0);
  await user.isEmpty();

  // The data are kept, and so the fencing tokens keep growing.
  const token = async () => {
    const { stdout, stderr } = await user.cli(["run", "k", "--shell", "--", "echo $PG_LOCKER_FENCING_TOKEN"]);
    return [BigInt(stdout), stderr] as const;
  };
  const [first, said] = await token();
  expect(said).toMatch(/started PostgreSQL/);
  expect((await user.cli(["server", "stop"])).status).toBe(0);
  expect((await token())[0]).toBeGreaterThan(first);
});
