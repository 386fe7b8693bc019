// The PgBouncer, in session mode, through which one worker connects, if it is installed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, closeSync, existsSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { postgresAccount } from "../dist/testing/postgres/account.js";

// Debian's folder for it is in root's PATH only.
const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
const program = folders.map((folder) => join(folder, "pgbouncer")).find((path) => existsSync(path));
/** Milliseconds within which PgBouncer must accept a connection. */
const deadline = 60_000;

export class Pooler {
  static isInstalled = program !== undefined;
  port;
  #directory;
  #user;
  #started;
  #child;

  /**
   * @param directory the directory for its files, inside one that everybody may pass through @param user the role it logs in as
   * @param started called with each of its processes
   */
  constructor({ directory, user, started }) {
    this.#directory = directory;
    this.#user = user;
    this.#started = started;
  }

  /** @param target the port of the server */
  async start(target) {
    this.port = await freePort();
    mkdirSync(this.#directory);
    this.#configure(target);
    // Like PostgreSQL, PgBouncer refuses to run as root.
    const account = postgresAccount();
    if (account !== undefined) chownSync(this.#directory, account.uid, account.gid);
    await this.#launch();
  }

  /** Sends new clients to another server from now on. Present clients keep their sessions. */
  follow(target) {
    this.#configure(target);
    this.#child.kill("SIGHUP");
  }

  /** Kills PgBouncer and starts it again. */
  async restart() {
    await this.kill();
    await this.#launch();
  }

  /** Kills PgBouncer, which closes every connection on both sides. */
  async kill() {
    if (this.#hasEnded) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  async #launch() {
    const late = performance.now() + deadline;
    await this.#spawn();
    while (!(await this.#isReady())) {
      if (performance.now() > late) throw new Error(`pgbouncer does not listen within ${deadline} ms`);
      await delay(20);
      // Its port may be in use for the moment, as the local end of another program's connection.
      if (this.#hasEnded) await this.#spawn();
    }
  }

  async #spawn() {
    const log = openSync(join(this.#directory, "log"), "a");
    const child = spawn(program, [join(this.#directory, "pgbouncer.ini")], {
      ...postgresAccount(),
      // In its own session, so that Ctrl-C in a terminal doesn't end it before the workers.
      detached: true,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#child = child;
    await once(child, "spawn");
    this.#started(child);
  }

  get #hasEnded() {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  #isReady() {
    return new Promise((resolve) => {
      const socket = connect(this.port, "127.0.0.1");
      const answer = (isReady) => {
        socket.destroy();
        resolve(isReady);
      };
      socket.on("connect", () => answer(true));
      socket.on("error", () => answer(false));
    });
  }

  #configure(target) {
    writeFileSync(
      join(this.#directory, "pgbouncer.ini"),
      `
[databases]
* = host=127.0.0.1 port=${target} user=${this.#user}
[pgbouncer]
pool_mode = session
listen_addr = 127.0.0.1
listen_port = ${this.port}
unix_socket_dir =
auth_type = any
default_pool_size = 100
; A server that was restarted is to be found at once, not after 15 s.
server_login_retry = 0.1
`,
    );
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
