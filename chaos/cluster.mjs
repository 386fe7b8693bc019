// The processes of a run: the server, the links, the workers; and what is done to them.
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

/** Milliseconds after which a session that was terminated has surely gone. */
const dying = 100;
/** Milliseconds that a fault waits for something to do it to: a worker that holds something, or that is connected. */
const patience = 3_000;
/** Milliseconds in which there is a standby again, however often its server is restarted. */
const toCopy = 60_000;

/** Every other worker has a session for each lock. */
const sessionsOf = (worker) => (worker % 2 === 0 ? "dedicated" : "shared");
/** Callers at once. */
const lanesOf = { shared: 700, dedicated: 24 };

const timelineNow =
  "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4 as timeline";

const program = (name) => fileURLToPath(new URL(name, import.meta.url));

export class Cluster {
  /** The primary. */
  server;
  /** The server of what the locks protect: a standby may lack its primary's last writes, and a resource must not. */
  resource;
  /** What was injected, with the time before it began and after it was over. */
  injected = [];
  /** What ended sessions that their holders had not given up: see `endedByOthers`. */
  endings = [];
  /** Those of them that explain an overlap. */
  excuses = [];
  wrong = [];
  #now;
  #facts;
  #history;
  #links;
  /** The promise of one. */
  #standby;
  /** Of the worker that goes through one. */
  #pooler;
  #pooled;
  /** The half of the workers that was cut off by the last `crash-in-hole`. */
  #inHole = "second";
  /** Of each worker to the server, and to its own host. */
  #ways = [];
  #calls = new Map();
  #children = new Map();
  #expected = new Set();
  #life = 0;
  #isEnding = false;

  /** @param facts what every worker is told @param history is told of each worker @param now the clock */
  constructor({ facts, history, now }) {
    this.#facts = facts;
    this.#history = history;
    this.#now = now;
  }

  /** Callers of the workers, by their sort. */
  get lanes() {
    return Object.values(lanesOf);
  }

  async startServers() {
    // A standby is soon back at a primary that was restarted.
    const settings = { max_connections: 500, wal_retrieve_retry_interval: "100ms" };
    this.server = await PostgresServer.start({ settings });
    this.resource = await PostgresServer.start();
    this.#standBy();
  }

  /** Starts the links, then the workers; resolves when all of these are ready. */
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

  /** Whether a fault can be injected on this machine. */
  allows(kind) {
    if (kind === "pooler-kill") return this.#pooler !== undefined;
    return kind !== "vanish" || this.#ways.every(({ direct }) => direct !== undefined);
  }

  /** Does to a worker, or to the server, what the plan says. */
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

  /** Tells the workers to work no more, but to stay connected. Resolves when they have stopped, or are late. */
  async stopWorkers(deadline) {
    const stopping = [...this.#children].map(async ([worker, child]) => {
      const stopped = this.#message(child, "stopped");
      child.send({ stop: true });
      const message = await Promise.race([stopped, delay(deadline, undefined, { ref: false })]);
      if (message === undefined) this.wrong.push(`worker ${worker} did not stop within ${deadline} ms`);
    });
    await Promise.all(stopping);
  }

  /** Lets the workers close their lockers and end by themselves; then ends the pooler, which would keep sessions. */
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

  /** What a vanished host has left open without a lock, nobody but the server's keepalive would end. */
  async endVanished() {
    for (const worker of this.#children.keys()) await this.#call(worker, "endVanished");
  }

  async heal() {
    for (const worker of this.#children.keys()) {
      await this.#call(worker, "heal");
      await this.#call(worker, "endOrphans");
    }
  }

  /** Ends every process, however far the run has come. */
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

  /** Answers when it took effect, if that was later than the beginning; `false`: there was nothing to do it to. */
  async #do({ kind, worker, lasts, amount }, observer) {
    if (!this.allows(kind)) return false;
    const child = this.#children.get(worker);
    // It has ended by itself, which is wrong, and told.
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
        // Which locks those sessions have by then, nobody knows: they may have got others meanwhile.
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

  #half(which) {
    const workers = this.#ways.map((_, index) => index + 1);
    return workers.filter((worker) => worker <= workers.length / 2 === (which === "first"));
  }

  /** The server takes it for a crash, ends every session and starts again. */
  async #killBackend(kind, observer) {
    const started = "select pg_postmaster_start_time()::text, (select count(*) from pg_stat_activity)";
    let hit = false;
    await this.#ending(kind, undefined, async () => {
      for (const late = this.#now() + patience; !hit && this.#now() < late; ) hit = await killOne(observer);
      if (!hit) return;
      // Asked until it is answered by the server that has started again.
      await delay(50);
      await observer.ask(started);
    });
    return hit ? undefined : false;
  }

  /** The old primary has gone before there is another. */
  async #promote(kind, observer) {
    const promoted = await this.#standby;
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
   * While the old primary goes on, every new connection is one to the new primary. Half of the workers lose what they have to
   * the old one at once; the others keep it until that is stopped.
   */
  async #failOver(kind, lasts, observer) {
    const promoted = await this.#standby;
    const old = this.server;
    const [{ timeline }] = await observer.ask(timelineNow);
    const beside = { kind, timeline, beside: true, at: this.#now(), until: Number.POSITIVE_INFINITY };
    this.#ended(beside);
    await promoted.promote();
    this.server = promoted;
    // First: what is granted there has to be seen.
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
    const workers = this.#ways.map((_, index) => index + 1);
    const straight = workers.filter((worker) => worker !== this.#pooled);
    await Promise.all(straight.map((worker) => this.#call(worker, "redirect", port)));
  }

  /**
   * Makes a standby of the server. If that is restarted meanwhile, the copy is in vain, and is made again; while it starts, it
   * refuses a copy at once.
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
    // Whoever wants it hears of it.
    this.#standby.catch(() => {});
  }

  async #startPooler(worker) {
    const { directory } = this.#facts;
    // It runs as another user.
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
      // Of every other life, whatever its worker.
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
      // The run is over, and its faults with it.
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

/** SIGKILL of any backend of a worker's. Answers whether there was one. */
async function killOne(observer) {
  const [backend] = await observer.ask(
    "select pid from pg_stat_activity where usename like 'chaos_worker_%' order by random() limit 1",
  );
  try {
    if (backend !== undefined) process.kill(backend.pid, "SIGKILL");
  } catch (error) {
    // It has ended meanwhile.
    if (error.code !== "ESRCH") throw error;
    return false;
  }
  if (backend === undefined) await delay(10);
  return backend !== undefined;
}
