import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { chown, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import pg from "pg";
import { postgresAccount } from "../../src/testing/postgres/account.ts";
import { until } from "./until.ts";

export interface PgBouncerOptions {
  /** The connection string of the server, with the user and the password with which the pooler logs in. */
  url: string;
  mode: "transaction" | "session" | "statement";
  /** How many sessions the pooler keeps for each database. Default 20. */
  poolSize?: number;
  /** `server_reset_query`, which it sends in session mode when a client has left. Default: the pooler's own, `DISCARD ALL`. */
  reset?: string;
  /** `max_prepared_statements`, if it {@link PgBouncer.prepares}. Default: the pooler's own. */
  prepared?: number;
}

// Debian's folder for it is only in root's PATH.
const FOLDERS = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
const BINARY = FOLDERS.map((folder) => join(folder, "pgbouncer")).find((path) => existsSync(path));

const [, MAJOR, MINOR] =
  /(\d+)\.(\d+)/.exec(BINARY ? spawnSync(BINARY, ["--version"], { encoding: "utf8" }).stdout : "") ?? [];

// Standard input ends when this process does, even by SIGKILL; $$ is then the pooler. A shell gives a command in the background an empty
// standard input, hence descriptor 3.
const SCRIPT = `
exec 3<&0
{ read -r line <&3; kill -KILL $$ && rm -rf -- "$2"; } &
exec "$1" "$2/pgbouncer.ini" </dev/null 3<&-
`;

/** A real PgBouncer on a free port of 127.0.0.1, in front of a server. It accepts every client. */
export class PgBouncer implements AsyncDisposable {
  /** Whether there is a `pgbouncer` on this machine. */
  static readonly installed = BINARY !== undefined;
  /** Whether it follows prepared statements from one session to another, as PgBouncer 1.21 and later do. */
  static readonly prepares = Number(MAJOR) > 1 || (Number(MAJOR) === 1 && Number(MINOR) >= 21);
  /** The connection string for the server, through the pooler. */
  readonly url: string;
  readonly #directory: string;
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;

  private constructor(url: string, directory: string, child: ChildProcess) {
    this.url = url;
    this.#directory = directory;
    this.#process = child;
    this.#exited = once(child, "exit");
  }

  /** @throws Error it isn't installed, or accepts nobody within 10 s; with its log. Then nothing is left behind. */
  static async start(options: PgBouncerOptions): Promise<PgBouncer> {
    if (BINARY === undefined) throw new Error("pgbouncer is not installed");
    const port = await freePort();
    const directory = await mkdtemp(join(tmpdir(), "pg-locker-pgbouncer-"));
    await writeFile(join(directory, "pgbouncer.ini"), configuration(options, port));
    const log = openSync(join(directory, "log"), "w");
    // Like PostgreSQL, it refuses to run as root.
    const account = postgresAccount();
    if (account) await chown(directory, account.uid, account.gid);
    const child = spawn("/bin/sh", ["-c", SCRIPT, "sh", BINARY, directory], {
      ...account,
      cwd: directory,
      // In a session of its own: Ctrl-C in a terminal must not end it while tests still clean up.
      detached: true,
      stdio: ["pipe", log, log],
    });
    closeSync(log);
    const url = new URL(options.url);
    url.hostname = "127.0.0.1";
    url.port = String(port);
    url.search = ""; // Parameters such as sslmode are for the server.
    const bouncer = new PgBouncer(url.href, directory, child);
    try {
      await until(() => bouncer.#isReady(), { deadline: 10_000, what: "a connection through pgbouncer" });
      return bouncer;
    } catch (cause) {
      const said = await readFile(join(directory, "log"), "utf8");
      await bouncer[Symbol.asyncDispose]();
      throw new Error(`pgbouncer did not start; its log:\n${said}`, { cause });
    }
  }

  /** Ends it at once, with every connection on both sides, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#exited;
    await rm(this.#directory, { recursive: true, force: true, maxRetries: 10 });
  }

  async #isReady(): Promise<boolean> {
    if (this.#process.exitCode !== null) throw new Error(`it exited with ${this.#process.exitCode}`);
    const client = new pg.Client({ connectionString: this.url, connectionTimeoutMillis: 2000 });
    client.on("error", () => {});
    try {
      await client.connect();
      await client.query("select 1");
      return true;
    } catch {
      return false;
    } finally {
      await client.end().catch(() => {});
    }
  }
}

function configuration(
  { url, mode, poolSize = 20, reset, prepared }: PgBouncerOptions,
  port: number,
): string {
  const server = new URL(url);
  const target = {
    host: server.hostname,
    port: server.port || "5432",
    user: decodeURIComponent(server.username),
    password: decodeURIComponent(server.password),
  };
  const pairs = Object.entries(target).filter(([, value]) => value !== "");
  const connection = pairs.map(([name, value]) => `${name}='${value.replaceAll("'", "''")}'`).join(" ");
  return `
[databases]
* = ${connection}
[pgbouncer]
pool_mode = ${mode}
default_pool_size = ${poolSize}
${reset === undefined ? "" : `server_reset_query = ${reset}`}
${prepared === undefined ? "" : `max_prepared_statements = ${prepared}`}
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
ignore_startup_parameters = extra_float_digits, options, statement_timeout, lock_timeout, idle_in_transaction_session_timeout
`;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
