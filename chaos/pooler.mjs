// The PgBouncer, in session mode, that one worker goes through; where it is installed.
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
/** Milliseconds in which it has to let somebody in. */
const deadline = 60_000;

export class Pooler {
  static isInstalled = program !== undefined;
  port;
  #directory;
  #user;
  #started;
  #child;

  /**
   * @param directory where it has its files, below one that everybody may pass @param user whom it logs in as
   * @param started is told each process of it
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
    // It refuses to run as root, as PostgreSQL does.
    const account = postgresAccount();
    if (account !== undefined) chownSync(this.#directory, account.uid, account.gid);
    await this.#launch();
  }

  /** Whoever is let in from now on gets a session of another server. The others keep what they have. */
  follow(target) {
    this.#configure(target);
    this.#child.kill("SIGHUP");
  }

  /** Killed, and started again. */
  async restart() {
    await this.kill();
    await this.#launch();
  }

  /** With every connection on both of its sides. */
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
      // Its port may be somebody's for the moment, who connects to somewhere.
      if (this.#hasEnded) await this.#spawn();
    }
  }

  async #spawn() {
    const log = openSync(join(this.#directory, "log"), "a");
    const child = spawn(program, [join(this.#directory, "pgbouncer.ini")], {
      ...postgresAccount(),
      // A session of its own: Ctrl-C in a terminal must not end it before the workers.
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
