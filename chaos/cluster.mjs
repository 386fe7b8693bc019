// The processes of a run (servers, links, workers), and the faults that are injected into them.
import { fork, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, chmodSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { PostgresServer } from "../dist/testing/index.js";
import { roleOf } from "./observer.mjs";
import { coveredByGrace, pooledOf } from "./plan.mjs";
import { Pooler } from "./pooler.mjs";

/** Milliseconds after which a terminated session has certainly gone. */
const dying = 100;
/** How many milliseconds a fault waits for a target: a worker that holds a lock or is connected. */
const patience = 3_000;
/** Milliseconds within which there must be a standby again, however often its server is restarted. */
const toCopy = 60_000;

/** Every other worker uses dedicated sessions. */
const sessionsOf = (worker) => (worker % 2 === 0 ? "dedicated" : "shared");
/** The number of simultaneous callers of a worker. */
const lanesOf = { shared: 700, dedicated: 24 };

const timelineNow =
  "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4 as timeline";

const program = (name) => fileURLToPath(new URL(name, import.meta.url));

export class Cluster {
  /** The primary. */
  server;
  /** The server of the resource that the locks protect. It is separate, because a promoted standby may lack its primary's last writes. */
  resource;
  /** The injected faults, each with a time before it began and a time after it was over. */
  injected = [];
  /** The faults that ended sessions which their holders still relied on: see `endedByOthers`. */
  endings = [];
  /** The endings that excuse an overlap. */
  excuses = [];
  wrong = [];
  #now;
  #facts;
  #history;
  #links;
  /** A promise of the standby. */
  #standby;
  /** The pooler in front of the server, and the worker that goes through it. */
  #pooler;
  #pooled;
  /** The half of the workers that was cut off by the last `crash-in-hole`. */
  #inHole = "second";
  /** For each worker, its way to the server and to its own host. */
  #ways = [];
  #calls = new Map();
  #children = new Map();
  #expected = new Set();
  #life = 0;
  #isEnding = false;

  /** @param facts the facts that every worker gets @param history records each worker's life @param now the clock */
  constructor({ facts, history, now }) {
    this.#facts = facts;
    this.#history = history;
    this.#now = now;
  }

  /** The numbers of callers of the two kinds of workers. */
  get lanes() {
    return Object.values(lanesOf);
  }

  async startServers() {
    // So that a standby reconnects soon after its primary was restarted.
    const settings = { max_connections: 500, wal_retrieve_retry_interval: "100ms" };
    this.server = await PostgresServer.start({ settings });
    this.resource = await PostgresServer.start();
    this.#standBy();
  }

  /** Starts the links and then the workers. Resolves when all workers are ready. */
  async startWorkers(count) {
    const { directory, keep } = this.#facts;
    const numbers = [this.server.port, this.resource.port, count].map(String);
    const given = [...numbers, ...(keep ? [] : [directory])];
    this.#links = fork(program("proxy.mjs"), given);
    this.#links.on("exit", (code) => {
      if (!this.#isEnding) this.wrong.push(`the links ended with exit code ${code}`);
      for (const resolve of this.#calls.values()) resolve();
    });
    const [{ ways }] = await once(this.#links, "message");
    this.#ways = ways;
    this.#links.on("message", ({ id }) => {
      this.#calls.get(id)?.();
      this.#calls.delete(id);
    });
    if (Pooler.isInstalled) await this.#startPooler(pooledOf(count));
    await Promise.all(ways.map((_, index) => this.#startWorker(index + 1)));
  }

  /** Whether this kind of fault can be injected on this machine. */
  allows(kind) {
    if (kind === "pooler-kill") return this.#pooler !== undefined;
    return kind !== "vanish" || this.#ways.every(({ direct }) => direct !== undefined);
  }

  /** Injects a fault of the plan into a worker or the server. */
  async inject(fault, observer) {
    const injected = { ...fault, at: this.#now(), until: Number.POSITIVE_INFINITY };
    this.injected.push(injected);
    const hit = await this.#do(fault, observer);
    injected.until = this.#now();
    if (hit === false) this.injected.splice(this.injected.indexOf(injected), 1);
    else injected.at = hit ?? injected.at;
    const { directory, keep } = this.#facts;
    if (keep) appendFileSync(join(directory, "faults.jsonl"), `${JSON.stringify(injected)}\n`);
  }

  /** Tells the workers to stop working but stay connected. Resolves when they have stopped or the deadline has passed. */
  async stopWorkers(deadline) {
    const stopping = [...this.#children].map(async ([worker, child]) => {
      const stopped = this.#message(child, "stopped");
      child.send({ stop: true });
      const message = await Promise.race([stopped, delay(deadline, undefined, { ref: false })]);
      if (message === undefined) this.wrong.push(`worker ${worker} did not stop within ${deadline} ms`);
    });
    await Promise.all(stopping);
  }

  /** Lets the workers close their lockers and exit by themselves; then ends the pooler, which would keep sessions open. */
  async closeWorkers(deadline) {
    const closing = [...this.#children].map(async ([worker, child]) => {
      this.#expected.add(child);
      const exited = once(child, "exit");
      child.send({ close: true });
      const ended = await Promise.race([exited, delay(deadline, undefined, { ref: false })]);
      if (ended === undefined) this.wrong.push(`worker ${worker} did not end within ${deadline} ms`);
      else if (ended[0] !== 0) this.wrong.push(`worker ${worker} ended with exit code ${ended[0]}`);
    });
    await Promise.all(closing);
    await this.#pooler?.kill();
  }

  /** Ends the connections that vanished hosts have left open, which otherwise only a TTL or the server's keepalive would end. */
  async endVanished() {
    for (const worker of this.#children.keys()) await this.#call(worker, "endVanished");
  }

  async heal() {
    for (const worker of this.#children.keys()) {
      await this.#call(worker, "heal");
      await this.#call(worker, "endOrphans");
    }
  }

  /** Ends every process, at any stage of the run. */
  async dispose() {
    this.#isEnding = true;
    for (const child of this.#children.values()) child.kill("SIGKILL");
    if (this.#links?.connected) {
      const exited = once(this.#links, "exit");
      this.#links.disconnect();
      await exited;
    }
    const standby = await this.#standby?.catch(() => undefined);
    for (const server of [this.server, standby, this.resource]) await server?.[Symbol.asyncDispose]();
  }

  /** Injects a fault. Returns when it took effect if that was later than its start, or `false` if there was nothing to apply it to. */
  async #do({ kind, worker, lasts, amount }, observer) {
    if (!this.allows(kind)) return false;
    const child = this.#children.get(worker);
    // The worker has ended by itself, which is wrong and has been reported.
    if (worker !== undefined && child === undefined) return false;
    switch (kind) {
      case "kill":
        await this.#kill(child);
        await delay(lasts);
        if (!this.#isEnding) await this.#startWorker(worker);
        return;
      case "vanish":
        await this.#call(worker, "vanish");
        await delay(lasts);
        await this.#kill(child);
        await this.#call(worker, "replace");
        if (!this.#isEnding) await this.#startWorker(worker);
        return;
      case "clock-forward":
        child.send({ jump: amount });
        return;
      case "clock-back":
        child.send({ jump: -amount });
        return;
      case "stop-short":
      case "stop-long":
      case "stall-stop":
        child.kill("SIGSTOP");
        await delay(lasts);
        child.kill("SIGCONT");
        return;
      case "block":
      case "stall-block":
        child.send({ block: lasts });
        await delay(lasts);
        return;
      case "hole-both":
        return this.#during(worker, lasts, "freeze", ["toServer", "toClient"]);
      case "hole-up":
        return this.#during(worker, lasts, "freeze", ["toServer"]);
      case "hole-down":
        return this.#during(worker, lasts, "freeze", ["toClient"]);
      case "latency":
        return this.#during(worker, lasts, "latency", amount);
      case "half-close":
        return this.#call(worker, "halfClose", "toClient");
      case "reset":
        return this.#call(worker, "resetClient");
      case "terminate":
        return this.#terminate(kind, worker, observer);
      case "terminate-in-hole": {
        const freeze = () => this.#call(worker, "freeze", ["toServer", "toClient"]);
        const hit = await this.#terminate(kind, worker, observer, freeze);
        await delay(lasts);
        await this.#call(worker, "heal");
        return hit;
      }
      case "reset-both":
        return this.#ending(kind, worker, () => this.#call(worker, "resetBoth"));
      case "half-close-server":
        return this.#ending(kind, worker, () => this.#call(worker, "halfClose", "toServer"));
      case "pooler-kill":
        return this.#ending(kind, worker, () => this.#pooler.restart());
      case "restart":
        return this.#ending(kind, undefined, () => this.server.restart());
      case "crash":
        return this.#ending(kind, undefined, () => this.server.restart({ mode: "immediate" }));
      case "crash-in-hole":
        return this.#crashInHole(kind, lasts);
      case "backend-kill":
        return this.#killBackend(kind, observer);
      case "promotion":
        return this.#promote(kind, observer);
      case "failover":
        return this.#failOver(kind, lasts, observer);
      default:
        throw new Error(`no such fault: ${kind}`);
    }
  }

  async #kill(child) {
    this.#expected.add(child);
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }

  async #during(worker, lasts, call, ...values) {
    await this.#call(worker, call, ...values);
    await delay(lasts);
    await this.#call(worker, "heal");
  }

  async #ending(kind, worker, work, { timeline } = {}) {
    const ending = { kind, worker, timeline, at: this.#now(), until: Number.POSITIVE_INFINITY };
    this.#ended(ending);
    await work();
    ending.until = this.#now() + dying;
  }

  #ended(ending) {
    this.endings.push(ending);
    if (!(this.#facts.recoveryGrace !== undefined && coveredByGrace.has(ending.kind)))
      this.excuses.push(ending);
  }

  async #terminate(kind, worker, observer, first = () => {}) {
    const late = this.#now() + patience;
    while (this.#now() < late) {
      const { keys } = await observer.look();
      const held = keys.filter(({ role }) => role === roleOf(worker));
      if (held.length > 0) {
        await first();
        const at = this.#now();
        const call = "select pg_terminate_backend(pid) from unnest($1::int4[]) as pid";
        const terminate = () => observer.ask(call, [held.map(({ pid }) => pid)]);
        // It is unknown which locks those sessions have by then: they may have taken others in the meantime.
        await this.#ending(kind, worker, terminate);
        return at;
      }
      await delay(10);
    }
    return false;
  }

  /** The holders in one half of the workers, each half in turn, don't hear of it until others may have been granted their locks. */
  async #crashInHole(kind, lasts) {
    this.#inHole = this.#inHole === "first" ? "second" : "first";
    const workers = this.#half(this.#inHole);
    const each = (call, ...values) =>
      Promise.all(workers.map((worker) => this.#call(worker, call, ...values)));
    await each("freeze", ["toServer", "toClient"]);
    await this.#ending(kind, undefined, () => this.server.restart({ mode: "immediate" }));
    await delay(lasts);
    await each("heal");
  }

  get #workers() {
    return this.#ways.map((_, index) => index + 1);
  }

  #half(which) {
    return this.#workers.filter((worker) => worker <= this.#workers.length / 2 === (which === "first"));
  }

  /** Kills one backend. The server treats that as a crash, ends every session and restarts. */
  async #killBackend(kind, observer) {
    for (const late = this.#now() + patience; this.#now() < late; await delay(10)) {
      const [backend] = await observer.ask(anyBackend);
      if (backend === undefined) continue;
      let isKilled = false;
      await this.#ending(kind, undefined, async () => {
        isKilled = kill(backend.pid);
        if (!isKilled) return;
        // Asks until the restarted server answers.
        await delay(50);
        await observer.ask("select pg_postmaster_start_time()");
      });
      if (isKilled) return undefined;
    }
    return false;
  }

  /** Stops the primary and then promotes its standby. */
  async #promote(kind, observer) {
    const promoted = await this.#copied();
    if (promoted === undefined) return false;
    const old = this.server;
    await this.#ending(kind, undefined, async () => {
      await old[Symbol.asyncDispose]();
      await promoted.promote();
      this.server = promoted;
      observer.follow(promoted.url);
      this.#pooler?.follow(promoted.port);
      await this.#redirect(promoted);
    });
    this.#standBy();
    return undefined;
  }

  /**
   * Promotes the standby while the old primary goes on. Every new connection goes to the new primary. Half of the workers lose their
   * connections to the old primary at once; the others keep theirs until it is stopped.
   */
  async #failOver(kind, lasts, observer) {
    const promoted = await this.#copied();
    if (promoted === undefined) return false;
    const old = this.server;
    const [{ timeline }] = await observer.ask(timelineNow);
    const beside = { kind, timeline, beside: true, at: this.#now(), until: Number.POSITIVE_INFINITY };
    this.#ended(beside);
    await promoted.promote();
    this.server = promoted;
    // The observer switches first, so that it sees every grant of the new primary.
    observer.follow(promoted.url);
    this.#pooler?.follow(promoted.port);
    await this.#redirect(promoted);
    const moved = this.#half(timeline % 2 === 1 ? "first" : "second");
    const reset = (worker) => this.#ending(kind, worker, () => this.#call(worker, "resetBoth"), { timeline });
    await Promise.all(moved.map(reset));
    await delay(lasts);
    await this.#ending(kind, undefined, () => old[Symbol.asyncDispose](), { timeline });
    beside.until = this.#now();
    this.#standBy();
    return beside.at;
  }

  /** New connections of the workers, except those of the pooler, go to another server. */
  async #redirect({ port }) {
    const straight = this.#workers.filter((worker) => worker !== this.#pooled);
    await Promise.all(straight.map((worker) => this.#call(worker, "redirect", port)));
  }

  /**
   * Makes a standby of the server. If the server is restarted in the meantime, the copy is useless and is made again; while the server
   * starts, it refuses a copy at once.
   */
  #standBy() {
    const late = this.#now() + toCopy;
    const attempt = async () => {
      try {
        return await this.server.standby();
      } catch (error) {
        if (this.#now() > late || this.#isEnding) throw error;
        await delay(100);
        return attempt();
      }
    };
    this.#standby = attempt();
    // Code that awaits the standby gets the error.
    this.#standby.catch(() => {});
  }

  /** The standby; `undefined` if other faults have kept it from being copied, so that it is made anew. */
  async #copied() {
    const standby = await this.#standby.catch(() => undefined);
    if (standby === undefined) this.#standBy();
    return standby;
  }

  async #startPooler(worker) {
    const { directory } = this.#facts;
    // The server runs as another user.
    chmodSync(directory, 0o711);
    const started = (child) => {
      this.#links.send({ began: child.pid });
      child.on("exit", () => {
        if (this.#links.connected) this.#links.send({ ended: child.pid });
      });
    };
    const pooler = new Pooler({ directory: join(directory, "pooler"), user: roleOf(worker), started });
    await pooler.start(this.server.port);
    await this.#call(worker, "redirect", pooler.port);
    this.#pooler = pooler;
    this.#pooled = worker;
  }

  async #startWorker(worker) {
    this.#life += 1;
    const { directory, keep: _, ...facts } = this.#facts;
    const journal = join(directory, `journal-${worker}-${this.#life}`);
    const way = this.#ways[worker - 1];
    const through = urlOf(this.server.url, roleOf(worker), way.link);
    const direct = urlOf(this.resource.url, "chaos_writer", way.direct);
    const told = {
      ...facts,
      sessions: sessionsOf(worker),
      pooler: worker === this.#pooled ? "session" : "refuse",
      lanes: lanesOf[sessionsOf(worker)],
      seed: facts.seed + 104_729 * this.#life,
      journal,
      writer: `${worker}-${this.#life}`,
      // In every other life of a worker.
      hooksThrow: Math.floor(this.#life / 2) % 2 === 1,
      link: through,
      direct,
    };
    const command = [
      ...way.prefix,
      process.execPath,
      "--no-warnings",
      program("worker.mjs"),
      JSON.stringify(told),
    ];
    const child = spawn(command[0], command.slice(1), { stdio: ["inherit", "inherit", "inherit", "ipc"] });
    const ended = this.#history.life({ worker, journal, writer: told.writer });
    this.#children.set(worker, child);
    this.#links.send({ began: child.pid });
    child.on("exit", (code, signal) => {
      ended();
      if (this.#links.connected) this.#links.send({ ended: child.pid });
      if (this.#children.get(worker) === child) this.#children.delete(worker);
      if (!this.#expected.has(child) && !this.#isEnding) {
        this.wrong.push(`worker ${worker} ended by itself, with ${signal ?? `exit code ${code}`}`);
      }
    });
    child.on("error", () => {});
    await this.#message(child, "ready");
  }

  #message(child, name) {
    return new Promise((resolve) => {
      const done = (message) => {
        if (message !== undefined && message[name] === undefined) return;
        child.removeListener("message", done);
        child.removeListener("exit", gone);
        resolve(message);
      };
      const gone = () => done(undefined);
      child.on("message", done);
      child.on("exit", gone);
    });
  }

  #call(worker, call, ...values) {
    const id = `${call} ${this.#now()} ${worker}`;
    return new Promise((resolve) => {
      // The run is over, so the fault doesn't matter any more.
      if (!this.#links.connected) return resolve();
      this.#calls.set(id, resolve);
      this.#links.send({ id, worker, call, values });
    });
  }
}

function urlOf(url, user, { host, port } = {}) {
  const changed = new URL(url);
  changed.username = user;
  if (host !== undefined) changed.hostname = host;
  if (port !== undefined) changed.port = String(port);
  return changed.href;
}

/** Any backend of a worker. */
const anyBackend =
  "select pid from pg_stat_activity where usename like 'chaos_worker_%' order by random() limit 1";

/** Kills a process with SIGKILL. Returns whether there was one. */
function kill(pid) {
  try {
    process.kill(pid, "SIGKILL");
    return true;
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
    return false;
  }
}
