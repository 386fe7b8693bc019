import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { namedDatabase } from "../../src/cli/connection/named-database.ts";
import { type CliOptions, cli } from "../support/cli.ts";
import { createRole, databaseUrl, onServer } from "../support/database.ts";
import { UserState } from "../support/own-server.ts";
import { startServer } from "../support/start-server.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

const { hostname, port, pathname, username } = new URL(databaseUrl());
const dbname = pathname.slice(1);
const asked = (user = username) => `Database ${dbname} on ${hostname}:${port}, as ${user} (`;

/** A folder for the files that variables name. It is removed at the end. */
async function folder(): Promise<AsyncDisposable & { write(name: string, text: string): Promise<string> }> {
  const path = await mkdtemp(join(tmpdir(), "pg-locker-files-"));
  return {
    write: async (name, text) => {
      await writeFile(join(path, name), text);
      await chmod(join(path, name), 0o600);
      return join(path, name);
    },
    [Symbol.asyncDispose]: () => rm(path, { recursive: true }),
  };
}

test.each([
  ["--url", { url: "postgres://" }, { DATABASE_URL: "postgres://db.example/app" }],
  ["DATABASE_URL", {}, { DATABASE_URL: "postgres:///" }],
])("a connection string that leaves everything open is still named: %s", (name, values, env) => {
  expect(namedDatabase(values, env)).toMatchObject({ namedBy: name, targets: [{ host: "localhost" }] });
});

/** The output of a command that finds no locks. */
async function ls(env: NonNullable<CliOptions["env"]>, args: readonly string[] = []): Promise<string> {
  const { status, stdout, stderr } = await cli(["ls", ...args], { env });
  expect([status, stderr]).toEqual([0, ""]);
  return stdout;
}

describe("a name that can't be used exits with 64, says where it is, and starts nothing", () => {
  test.each<[string, CliOptions["env"], string[]]>([
    ["DATABASE_URL", { DATABASE_URL: "" }, []],
    ["DATABASE_URL", { DATABASE_URL: " \n", PGHOST: hostname }, []],
    ["--url", {}, ["--url", ""]],
    ["--url", { DATABASE_URL: databaseUrl() }, ["--url="]],
    ["password of --url", {}, ["--url", "postgres://app:%00@127.0.0.1:1/db"]],
    ["user of DATABASE_URL", { DATABASE_URL: "postgres://app%00options@127.0.0.1:1/db" }, []],
    ["PGHOST", { PGHOST: "" }, []],
    ["PGHOST", { PGHOST: " " }, []],
    ["PGDATABASE", { PGDATABASE: "" }, []],
    ["PGSERVICE", { PGSERVICE: "" }, []],
    ["PGSERVICE", { PGSERVICE: "no such one" }, []],
    ["PGSERVICEFILE", { PGSERVICEFILE: "/no/such/file", PGSERVICE: "prod" }, []],
    ["PGSERVICEFILE", { PGSERVICEFILE: "/no/such/file" }, []],
    ["PGSERVICEFILE", { PGSERVICEFILE: "/dev/zero", PGSERVICE: "prod" }, []],
    ["PGSERVICE", { PGSERVICEFILE: "/dev/null", PGSERVICE: "prod" }, []],
    ["PGPASSFILE", { PGPASSFILE: "/no/such/file", PGHOST: hostname }, []],
    ["PGSSLROOTCERT", { PGSSLROOTCERT: "/dev/zero", PGSSLMODE: "verify-ca" }, []],
    ["PGSSLROOTCERT", { PGSSLROOTCERT: "/no/such/file", PGSSLMODE: "verify-ca" }, []],
    ["PGSSLMODE", { PGSSLMODE: "requre" }, []],
    ["PGPORT", { PGHOST: hostname, PGPORT: "54x" }, []],
    ["PGHOSTADDR", { PGHOSTADDR: "db.example" }, []],
    ["PGCONNECT_TIMEOUT", { PGHOST: hostname, PGCONNECT_TIMEOUT: "soon" }, []],
    ["PGTARGETSESSIONATTRS", { PGHOST: hostname, PGTARGETSESSIONATTRS: "standby" }, []],
    ["PGLOADBALANCEHOSTS", { PGHOST: "a,b", PGLOADBALANCEHOSTS: "random" }, []],
    ["PGCHANNELBINDING", { PGHOST: hostname, PGCHANNELBINDING: "require" }, []],
    ["PGGSSENCMODE", { PGHOST: hostname, PGGSSENCMODE: "require" }, []],
    ["PGREQUIREAUTH", { PGHOST: hostname, PGREQUIREAUTH: "scram-sha-256" }, []],
    ["PGREQUIREPEER", { PGHOST: hostname, PGREQUIREPEER: "postgres" }, []],
    ["PGGSSLIB", { PGHOST: hostname, PGGSSLIB: "gssapi" }, []],
    ["PGSSLCRLDIR", { PGHOST: hostname, PGSSLCRLDIR: "/etc" }, []],
    ["PGSSLMINPROTOCOLVERSION", { PGHOST: hostname, PGSSLMINPROTOCOLVERSION: "SSLv3" }, []],
    ["PGSSLNEGOTIATION", { PGHOST: hostname, PGSSLNEGOTIATION: "indirect" }, []],
    ["PGSSLCRL", { PGHOST: hostname, PGSSLCRL: "/no/such/file", PGSSLMODE: "verify-ca" }, []],
    ["PGSSLCERT", { PGHOST: hostname, PGSSLCERT: "/no/such/file", PGSSLMODE: "require" }, []],
  ])("%s %j", async (name, env, args) => {
    await using user = await UserState.create();
    // All of them do what run does; starting them all would take a while.
    const isServer = /^(DATABASE_URL|--url|PGSERVICE|PGHOST)$/.test(name);
    const commands = [
      ...(isServer ? [["run", "k", ...args, "--", "echo", "ran"]] : []),
      ["who", "k", ...args],
    ];
    for (const { status, stdout, stderr } of await Promise.all(commands.map((each) => user.cli(each, env)))) {
      expect([status, stdout]).toEqual([64, ""]);
      expect(stderr).toMatch(new RegExp(`^pg-locker: .*${name}.*\n$`));
    }
    expect(existsSync(user.folder)).toBe(false);
  });
});

describe("whatever names a server keeps a command from using one's own PostgreSQL", () => {
  test.each([
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGOPTIONS",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGTARGETSESSIONATTRS",
  ])("%s", async (name) => {
    const values: Record<string, string> = {
      ...{ PGHOST: "127.0.0.1", PGHOSTADDR: "127.0.0.1", PGPORT: "1", PGSSLMODE: "prefer" },
      ...{ PGREQUIRESSL: "1", PGTARGETSESSIONATTRS: "primary", PGOPTIONS: "-c geqo=off" },
    };
    await using user = await UserState.create();
    const env = { [name]: values[name] ?? "x", ...(name !== "PGPORT" && { PGCONNECT_TIMEOUT: "1" }) };
    const { stdout, stderr } = await user.cli(["ls"], env);
    expect(stdout + stderr).toMatch(
      new RegExp(` on (localhost|127\\.0\\.0\\.1):\\d+, as .* \\(.*${name}.*\\)`),
    );
    expect(existsSync(user.folder)).toBe(false);
  });
});

/** A role whose members the test server asks for their passwords; it asks nobody else. */
async function requirePassword(role: string): Promise<void> {
  await onServer(
    "do $$ begin create role password_required; exception when duplicate_object or unique_violation then null; end $$",
  );
  await onServer(`grant password_required to ${role}`);
}

test("with variables that name no server, one's own PostgreSQL is used", async () => {
  const env = {
    PGAPPNAME: "x",
    PGCLIENTENCODING: "UTF8",
    PGCONNECT_TIMEOUT: "3",
    XDG_STATE_HOME: "/dev/null",
  };
  const { status, stderr } = await cli(["ls"], { env });
  expect([status, stderr]).toEqual([69, expect.stringContaining("/dev/null/pg-locker")]);
});

describe("as in libpq, this is read:", () => {
  test("a service, in the named file or the home folder, for what is left open", async () => {
    await using files = await folder();
    const lines = `# ours\n[other]\nhost=/nowhere\n[prod]\nhost=${hostname}\nport=${port}\n`;
    const file = await files.write(".pg_service.conf", `${lines}dbname=${dbname}\n\n[last]\nhost=x\n`);
    const env = { PGSERVICE: "prod", PGUSER: username };
    const line = `${asked()}PGSERVICE, the service "prod")`;
    expect(await ls({ ...env, PGSERVICEFILE: file, PGHOST: "127.0.0.1", PGPORT: "1" })).toContain(line);
    expect(await ls({ ...env, HOME: join(file, "..") })).toContain(line);
    expect(await ls({ DATABASE_URL: `service=prod servicefile=${file} user=${username}` })).toContain(
      asked(),
    );
    const { status, stderr } = await cli(["ls"], { env: { ...env, PGSERVICE: "nope", PGSERVICEFILE: file } });
    expect([status, stderr]).toEqual([
      64,
      `pg-locker: PGSERVICE names the service "nope", which is not in ${file}\n`,
    ]);
  });

  test("an address in addition to a name", async () => {
    const env = { PGHOST: "no-such-host.invalid", PGHOSTADDR: "127.0.0.1", PGPORT: port, PGDATABASE: dbname };
    expect(await ls({ ...env, PGUSER: username })).toMatch(/ on no-such-host\.invalid:\d+, as /);
  });

  test("the password of a file, silently, unless others may read the file", async () => {
    await using role = await createRole();
    await requirePassword(role.name);
    await using files = await folder();
    const text = `# x\n*:1:*:*:wrong\n${hostname}:${port}:${dbname}:${role.name}:secret\n`;
    const file = await files.write(".pgpass", text);
    const url = new URL(role.url);
    url.password = "";
    expect(await ls({ DATABASE_URL: url.href, PGPASSFILE: file })).toContain(asked(role.name));
    expect(await ls({ DATABASE_URL: url.href, HOME: join(file, "..") })).toContain(asked(role.name));
    expect(await ls({ DATABASE_URL: `${url.href}?passfile=${file}` })).toContain(asked(role.name));
    // With several hosts, it is the password for the one that is connected to.
    const several = url.href.replace("@", "@127.0.0.1:1,");
    expect(await ls({ DATABASE_URL: several, PGPASSFILE: file })).toContain(asked(role.name));
    expect(await ls({ DATABASE_URL: url.href, PGPASSWORD: "secret" })).toContain(asked(role.name));
    expect(await ls({ DATABASE_URL: role.url })).toContain(asked(role.name));
    const none = await cli(["ls"], { env: { DATABASE_URL: url.href, HOME: "/nowhere" } });
    expect([none.status, none.stderr]).toEqual([
      69,
      expect.stringMatching(/asks for a password, and there is none/),
    ]);
    const wrong = await cli(["ls"], { env: { DATABASE_URL: url.href, PGPASSWORD: "wr0ng-one" } });
    expect([wrong.status, wrong.stderr]).toEqual([
      69,
      expect.stringContaining("password authentication failed"),
    ]);
    expect(wrong.stderr).not.toContain("wr0ng-one");
    await chmod(file, 0o644);
    const open = await cli(["ls"], { env: { DATABASE_URL: url.href, PGPASSFILE: file } });
    expect([open.status, open.stderr]).toEqual([64, expect.stringContaining("chmod 600")]);
  });

  test("options", async () => {
    const env = {
      DATABASE_URL: databaseUrl(),
      PGOPTIONS: "-c statement_timeout=7min",
    };
    const { stdout } = await cli(["doctor"], { env });
    expect(stdout).toContain("statement_timeout = 7m0s (of the connection)");
  });

  test("no user: the account's name, as psql does, without any environment", async () => {
    const name = userInfo().username;
    const url = new URL(databaseUrl());
    url.username = "";
    const env = { DATABASE_URL: url.href, USER: undefined, LOGNAME: undefined, HOME: undefined };
    const { stdout, stderr } = await cli(["ls"], { env });
    expect(stdout + stderr).toContain(`, as ${name} (DATABASE_URL)`);
  });
});

test.skipIf(process.getuid?.() !== 0)(
  "a user id without an account is told what to set (skipped unless root)",
  async () => {
    const account = { uid: 54_321, gid: 54_321 };
    const bare = { HOME: undefined, USER: undefined, LOGNAME: undefined };
    const named = await cli(["ls"], { account, env: { ...bare, PGHOST: hostname } });
    expect([named.status, named.stderr]).toEqual([
      64,
      expect.stringMatching(/^pg-locker: .*54321.*: set PGUSER\n$/),
    ]);
    const local = await cli(["ls"], { account, env: { ...bare, XDG_STATE_HOME: undefined } });
    expect([local.status, local.stderr]).toEqual([
      69,
      expect.stringMatching(/^pg-locker: .*54321.*DATABASE_URL\n$/),
    ]);
  },
);

describe("several hosts", () => {
  test("are tried in turn, and the one that answers is named", async () => {
    const url = `postgres://${username}@127.0.0.1:1,${hostname}:${port}/${dbname}?target_session_attrs=read-write`;
    expect(await ls({ DATABASE_URL: url })).toContain(`${asked()}DATABASE_URL)`);
    const ran = await cli(["run", "k", "--", "echo", "ran"], { env: { DATABASE_URL: url } });
    expect(ran).toMatchObject({ status: 0, stdout: "ran\n", stderr: "" });
  });

  test("of which none accepts writes: the error says what is wrong with each", async () => {
    const [{ name }] = (await onServer<{ name: string }>("select current_database() as name")) as [
      { name: string },
    ];
    const url = `postgres://${username}@127.0.0.1:1,${hostname}:${port}/${name}?target_session_attrs=primary`;
    const env = { DATABASE_URL: url, PGOPTIONS: "-c default_transaction_read_only=on" };
    const { status, stderr } = await cli(["ls"], { env });
    expect(status).toBe(69);
    expect(stderr).toMatch(/127\.0\.0\.1:1: connect ECONNREFUSED .*: takes no writes/);
  });
});

test("--local uses one's own PostgreSQL, and can't be combined with --url", async () => {
  await using user = await UserState.create();
  const env = { DATABASE_URL: databaseUrl(), PGOPTIONS: "-c nonsense=1", PGSSLNEGOTIATION: "direct" };
  const { status, stdout, stderr } = await user.cli(["ls", "--local"], env);
  expect([status, stdout, stderr]).toEqual([0, expect.stringContaining(`${user.folder}/socket`), ""]);
  const both = await user.cli(["ls", "--local", "--url", databaseUrl()]);
  expect([both.status, both.stderr]).toEqual([
    64,
    "pg-locker: Expected one of --local and --url, got both\n",
  ]);
});

test("a standby and its primary: read-write finds the primary and any takes the first", async () => {
  await using primary = await startServer();
  await using standby = await primary.standby();
  const hosts = [standby, primary].map((server) => new URL(server.url).host).join(",");
  const url = (attrs: string) => `postgres://postgres@${hosts}/postgres?target_session_attrs=${attrs}`;
  const run = (attrs: string) =>
    cli(["run", "k", "--", "echo", "ran"], { env: { DATABASE_URL: url(attrs) } });
  expect(await run("read-write")).toMatchObject({ status: 0, stdout: "ran\n", stderr: "" });
  expect(await ls({ DATABASE_URL: url("primary") })).toContain(
    ` on ${new URL(primary.url).host}, as postgres`,
  );
  const refused = await run("any");
  expect([refused.status, refused.stdout]).toEqual([69, ""]);
  expect(refused.stderr).toMatch(/standby.*; asked postgres on /);
}, 60_000);
