// The links between the workers and the server: one TCP proxy for each worker, in a separate process, so that stopping a worker doesn't
// stop its link. If the machine allows it, each worker has its own host. Started by run.mjs:
// proxy.mjs <port of the server> <port of the resource's server> <number of workers> [<folder to remove>]
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect, createServer } from "node:net";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { TcpProxy } from "../test/support/network-proxy.mjs";
import { Host } from "./host.mjs";

const [serverPort, resourcePort, count] = process.argv.slice(2, 5).map(Number);
const folder = process.argv[5];
/** Milliseconds for which the server's end of a link stays open after the worker's end was reset: longer than any TTL. */
const orphaned = 30_000;
/** The workers, and the pooler. */
const processes = new Set();

/** The link of one worker to the server, with all its connections. */
class Link {
  #proxy;
  #host;
  #ofVanished = [];

  /** @param host the host of the worker, if it has its own */
  async start(host) {
    this.#host = host;
    this.#proxy = await TcpProxy.start(urlOf(serverPort), host && { address: host.address });
    return this.#proxy.port;
  }

  /** Cuts the worker's host off, silently. */
  vanish() {
    this.#ofVanished.push(this.#proxy.snapshot());
    this.#host.vanish();
  }

  /**
   * Ends, towards the server, the connections that vanished hosts have left open. The server has already ended the sessions of holders, a
   * TTL after it last heard from them; sessions without a lock would wait for the server's keepalive, which takes minutes.
   */
  endVanished() {
    for (const those of this.#ofVanished.splice(0)) those.endTowardsServer();
  }

  /** Puts another host in the place of the one that vanished. Connections on the link stay as they are. */
  replace() {
    this.#host.replace();
  }

  /** Sends new connections to another server from now on. Existing ones stay where they are. */
  redirect(port) {
    this.#proxy.retarget(urlOf(port));
  }

  /** Stops forwarding in these directions. Connections stay open, and new ones are accepted. */
  freeze(frozen) {
    for (const direction of frozen) this.#proxy.freeze({ direction });
  }

  latency(milliseconds) {
    this.#proxy.delay(milliseconds);
  }

  /** Forwards everything that was held back, and forwards without delay from now on. */
  heal() {
    this.#proxy.delay(0);
    this.#proxy.thaw();
  }

  /** Sends a FIN in one direction, after all data that is on its way. */
  halfClose(direction) {
    this.#proxy.halfClose(direction);
  }

  /** Resets the worker's end. The server's end stays open as if nothing had happened. */
  resetClient() {
    this.#proxy.resetClients({ orphanedFor: orphaned });
  }

  resetBoth() {
    this.#proxy.cut();
  }

  endOrphans() {
    this.#proxy.endOrphans();
  }
}

function urlOf(port) {
  return `postgres://127.0.0.1:${port}`;
}

async function listen(onConnection, address = "127.0.0.1") {
  const listener = createServer({ allowHalfOpen: true }, onConnection).listen(0, address);
  await once(listener, "listening");
  return listener.address().port;
}

/** Connects a worker on its own host to the resource, unaffected by faults. */
function relay(client) {
  const server = connect({ host: "127.0.0.1", port: resourcePort });
  for (const socket of [client, server]) socket.on("error", () => {});
  client.pipe(server).pipe(client);
  client.on("close", () => server.destroy());
  server.on("close", () => client.destroy());
}

const links = Array.from({ length: count }, () => new Link());
const hosts = links.map(() => new Host());
// Either every worker has its own host, or none has.
const separate = hosts.every((host) => host.start());
if (!separate) endHosts();

function endHosts() {
  for (const host of hosts) host.end();
}

process.on("message", ({ id, worker, call, values = [], began, ended }) => {
  if (began !== undefined) processes.add(began);
  if (ended !== undefined) processes.delete(ended);
  if (call === undefined) return;
  links[worker - 1][call](...values);
  // The run may have ended in the meantime.
  process.send({ id }, () => {});
});

// The run has ended in some way. A stopped worker can't notice that by itself, so it is killed here.
process.on("disconnect", () => {
  for (const pid of processes) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // The process has already ended.
    }
  }
  if (separate) endHosts();
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  process.exit(0);
});
// The signal may have gone to the whole process group: this process ends after the run, once it has cleaned up.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => {});

const ways = await Promise.all(
  links.map(async (link, at) => {
    const host = separate ? hosts[at] : undefined;
    return {
      link: { host: host?.address ?? "127.0.0.1", port: await link.start(host) },
      direct: host && { host: host.direct, port: await listen(relay, host.direct) },
      prefix: host?.prefix ?? [],
    };
  }),
);
process.send({ ways });
