import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { codeOf } from "../../contract/caught-error.ts";
import { type PostgresInstallation, type PostgresUse, postgresUse } from "../../testing/index.ts";
import { type Failure, unavailableFailure } from "../failure.ts";
import { initialise } from "./data.ts";
import { makeServerFolders, type OwnServerFolder, ownServerPort } from "./folder.ts";
import { isAlive, type LockFile, readLockFile, removeIfStale } from "./lock-files.ts";
import { passTimeline, timelineToPass } from "./timeline.ts";
import { isNobodyThere } from "./visit.ts";

const run = promisify(execFile);
const pollMs = 50;
/** How long a start may take, in milliseconds. */
export const startDeadline = 60_000;

/** PostgreSQL's shut-down modes: `smart` waits for the sessions to end, `fast` ends them. */
export type StopMode = "smart" | "fast";

/** How a server answers: it accepts connections; it refuses them because it starts, stops or recovers; or there is none. */
type Look = { readonly is: "open"; readonly use: PostgresUse } | { readonly is: "closed" | "nothing" };

/** The environment without libpq's variables, because the server reads some of them too. */
const environment = {
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PG"))),
  LC_ALL: "C",
};

/** Settings for the command line, not for `postgresql.conf`, because another release of this package may have others. */
const settings = (sockets: string) => ({
  cluster_name: "pg-locker",
  listen_addresses: "",
  // This setting is a list, so the name is quoted.
  unix_socket_directories: `"${sockets.replaceAll('"', '""')}"`,
  unix_socket_permissions: "0700",
  port: ownServerPort,
  max_connections: 200,
  max_locks_per_transaction: 256,
  shared_buffers: "16MB",
  min_wal_size: "8MB",
  max_wal_size: "64MB",
  wal_level: "minimal",
  max_wal_senders: 0,
  max_logical_replication_workers: 0,
  max_parallel_workers: 0,
  jit: "off",
  // Segments in /dev/shm would outlive a SIGKILL; these are in the data directory.
  dynamic_shared_memory_type: "mmap",
  // For a recovery that raises the timeline, see `passTimeline`.
  restore_command: "false",
  recovery_target_timeline: "current",
  log_checkpoints: "off",
  lc_messages: "C",
});

/** The user's own server while it runs. It keeps running when this process ends. */
export class OwnPostgres {
  /** Resolves when the server ends, if this process has started it; otherwise never. */
  readonly ended: Promise<unknown>;
  readonly #folder: OwnServerFolder;
  readonly #installation: PostgresInstallation;
  readonly #file: LockFile;

  private constructor(
    folder: OwnServerFolder,
    options: { installation: PostgresInstallation; file: LockFile; child?: ChildProcess },
  ) {
    this.#folder = folder;
    this.#installation = options.installation;
    this.#file = options.file;
    const { child } = options;
    this.ended =
      child === undefined || child.exitCode !== null || child.signalCode !== null
        ? new Promise(() => {})
        : once(child, "exit");
  }

  /**
   * Finds the server that runs in the folder, of any major version; waits for one that starts, stops or recovers. Returns `undefined` if
   * there is none.
   *
   * @param options.onWait is called, perhaps often, while a server has to be waited for
   * @throws {Failure} the server is still starting or stopping after `deadline` milliseconds
   */
  static async find(
    folder: OwnServerFolder,
    options: { installation: PostgresInstallation; deadline: number; onWait?: () => void },
  ): Promise<OwnPostgres | undefined> {
    const end = Date.now() + options.deadline;
    for (;;) {
      const { is } = await look(folder);
      if (is === "nothing") return undefined;
      const file = readLockFile(socketLock(folder));
      if (is === "open" && file !== undefined) {
        return new OwnPostgres(folder, { installation: options.installation, file });
      }
      options.onWait?.();
      if (Date.now() > end) {
        throw unavailableFailure(
          `Your own PostgreSQL in ${folder.path} still accepts no connections: it is starting, or shutting down and waiting for its sessions to end`,
        );
      }
      await delay(pollMs);
    }
  }

  /**
   * Starts the server, with a new data directory if there is none. If somebody else has just started it, returns that server.
   *
   * @throws {Failure} the server doesn't accept connections within {@link startDeadline}; quotes the end of its log
   */
  static async start(
    folder: OwnServerFolder,
    options: { installation: PostgresInstallation },
  ): Promise<{ server: OwnPostgres; isNew: boolean }> {
    const { installation } = options;
    const end = Date.now() + startDeadline;
    const { data } = await makeServerFolders(folder, installation);
    await initialise(data, { folder, installation, env: environment });
    const timeline = timelineToPass(data, folder.path);
    if (timeline !== undefined) {
      const serve = (more: Record<string, string>) => serveOnce(data, { folder, installation, end, more });
      await passTimeline(data, { timeline, installation, serve });
    }
    for (;;) {
      const logged = sizeOf(folder.log);
      const child = await launch(data, { folder, installation });
      const file = await readiness(data, { child, end });
      if (file !== undefined) {
        return { server: new OwnPostgres(folder, { installation, file, child }), isNew: true };
      }
      const said = readFileSync(folder.log).subarray(logged).toString();
      // Its interlocks: another process has started the server, a crash has left sessions that still run, or the lock files are stale.
      const isInUse = /lock file "[^"]*" (already exists|is empty)|shared memory block/.test(said);
      if (!isInUse || Date.now() > end) throw startFailure(folder, said);
      for (const path of [join(data, "postmaster.pid"), socketLock(folder)]) removeIfStale(path);
      await delay(2 * pollMs);
      const deadline = end - Date.now();
      const server = await OwnPostgres.find(folder, { installation, deadline });
      if (server !== undefined) return { server, isNew: false };
    }
  }

  /** The process id of the postmaster. */
  get pid(): number {
    return this.#file.pid;
  }

  /** Who uses the server; `undefined` if it accepts no more connections, `"unknown"` if it is too busy to say. */
  async use(): Promise<PostgresUse | "unknown" | undefined> {
    const found = await look(this.#folder).catch(() => "unknown" as const);
    if (found === "unknown") return isAlive(this.pid) ? found : undefined;
    return found.is === "open" ? found.use : undefined;
  }

  /** Shuts the server down. Resolves when it has gone, which in mode `smart` is after its last session. */
  async stop(mode: StopMode): Promise<void> {
    const { directory, account } = this.#installation;
    const args = ["stop", "--no-wait", "--silent", "-m", mode, "-D", this.#file.data];
    // As the server's account: whoever can write the file that names the process could otherwise have root signal any process.
    await run(join(directory, "bin", "pg_ctl"), args, { ...account, cwd: "/", env: environment }).catch(
      (error: unknown) => {
        if (isAlive(this.pid)) throw error;
      },
    );
    await this.gone();
  }

  async gone(): Promise<void> {
    const path = socketLock(this.#folder);
    while (isAlive(this.pid) && readLockFile(path)?.pid === this.pid) await delay(pollMs);
  }
}

/** How to connect to the server. There is no password, because only its user can enter the directory of the socket. */
export function ownServerConfig(folder: OwnServerFolder) {
  return { host: folder.sockets, port: ownServerPort, user: "postgres", database: "postgres", ssl: false };
}

async function look(folder: OwnServerFolder): Promise<Look> {
  try {
    // A database that nobody else uses, so that this look isn't counted as a use.
    const use = await postgresUse({ ...ownServerConfig(folder), database: "template1" });
    return { is: "open", use };
  } catch (error) {
    if (isNobodyThere(error)) return { is: "nothing" };
    const code = codeOf(error);
    // cannot_connect_now; or admin_shutdown, for a session that has just begun
    if (code === "57P03" || code === "57P01") return { is: "closed" };
    throw error;
  }
}

/** Starts the server on a socket that no client looks for, and stops it when it is ready. @throws {Failure} it doesn't start */
async function serveOnce(
  data: string,
  options: {
    folder: OwnServerFolder;
    installation: PostgresInstallation;
    end: number;
    more: Record<string, string>;
  },
): Promise<void> {
  const { folder, installation, end } = options;
  removeIfStale(join(data, "postmaster.pid"));
  const logged = sizeOf(folder.log);
  const more = { ...options.more, port: String(ownServerPort + 1) };
  const child = await launch(data, { folder, installation, more });
  if ((await readiness(data, { child, end })) === undefined) {
    throw startFailure(folder, readFileSync(folder.log).subarray(logged).toString());
  }
  const ended = once(child, "exit");
  child.kill("SIGINT");
  await ended;
}

async function launch(
  data: string,
  options: {
    folder: OwnServerFolder;
    installation: PostgresInstallation;
    more?: Readonly<Record<string, string>>;
  },
): Promise<ChildProcess> {
  const { folder, installation, more = {} } = options;
  const log = openSync(folder.log, "a", 0o600);
  const args = Object.entries({ ...settings(folder.sockets), ...more }).flatMap(([name, value]) => [
    "-c",
    `${name}=${value}`,
  ]);
  const child = spawn(join(installation.directory, "bin", "postgres"), ["-D", data, ...args], {
    ...installation.account,
    cwd: "/",
    env: environment,
    // In a session of its own, so that it outlives the keeper, whatever signal that gets.
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  // The keeper may end before the server.
  child.unref();
  await once(child, "spawn");
  return child;
}

/** The content of the server's lock file once it is ready; `undefined` if it ends, or takes too long. */
async function readiness(
  data: string,
  options: { child: ChildProcess; end: number },
): Promise<LockFile | undefined> {
  const { child, end } = options;
  while (child.exitCode === null && child.signalCode === null) {
    const file = readLockFile(join(data, "postmaster.pid"));
    if (file?.pid === child.pid && file?.isReady) return file;
    if (Date.now() > end) {
      child.kill("SIGQUIT");
      return undefined;
    }
    await delay(pollMs);
  }
  return undefined;
}

function socketLock(folder: OwnServerFolder): string {
  return join(folder.sockets, `.s.PGSQL.${ownServerPort}.lock`);
}

function startFailure(folder: OwnServerFolder, said: string): Failure {
  const lines = said.trim().split("\n").slice(-8);
  return unavailableFailure(
    `Your own PostgreSQL in ${folder.path} did not start. The end of its log:\n  ${lines.join("\n  ")}`,
  );
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
