// The links between the workers and the server, one TCP proxy for each worker, in a process of their own: a worker that is
// stopped doesn't stop its link. Where the machine allows it, each worker has a host of its own. Started by run.mjs:
// proxy.mjs <port of the server> <port of the resource's server> <number of workers> [<folder to remove>]
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect, createServer } from "node:net";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { TcpProxy } from "../test/support/network-proxy.mjs";
import { Host } from "./host.mjs";

const [serverPort, resourcePort, count] = process.argv.slice(2, 5).map(Number);
const folder = process.argv[5];
/** Milliseconds that the server's end of a link is left open when the worker's end has been reset. */
const orphaned = 3_000;
/** The workers, and the pooler. */
const processes = new Set();

/** The way of one worker to the server, and all its connections. */
class Link {
  #proxy;
  #host;
  #ofVanished = [];

  /** @param host where its worker is, if not here */
  async start(host) {
    this.#host = host;
    this.#proxy = await TcpProxy.start(urlOf(serverPort), host && { address: host.address });
    return this.#proxy.port;
  }

  /** Its worker's host is cut off, and nobody is told. */
  vanish() {
    this.#ofVanished.push(this.#proxy.snapshot());
    this.#host.vanish();
  }

  /**
   * Ends, towards the server, what hosts that vanished have left open. A holder's session the server has ended by then, a TTL after it
   * last heard of it; one without a lock waits for the server's keepalive, which would take minutes.
   */
  endVanished() {
    for (const those of this.#ofVanished.splice(0)) those.endTowardsServer();
  }

  /** There is another host in the place of the one that vanished. What was on the link stays as it is, for all who are left. */
  replace() {
    this.#host.replace();
  }

  /** From now on, connections go to another server. Those that there are stay where they are. */
  redirect(port) {
    this.#proxy.retarget(urlOf(port));
  }

  /** Forwards nothing more in these directions. Connections stay open, and new ones are accepted. */
  freeze(frozen) {
    for (const direction of frozen) this.#proxy.freeze({ direction });
  }

  latency(milliseconds) {
    this.#proxy.delay(milliseconds);
  }

  /** Forwards what was held back, and everything from here on, at once. */
  heal() {
    this.#proxy.delay(0);
    this.#proxy.thaw();
  }

  /** Ends the flow in one direction with a FIN, after what is in it. */
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

/** The way to the resource, past all faults, from a host of its own. */
function relay(client) {
  const server = connect({ host: "127.0.0.1", port: resourcePort });
  for (const socket of [client, server]) socket.on("error", () => {});
  client.pipe(server).pipe(client);
  client.on("close", () => server.destroy());
  server.on("close", () => client.destroy());
}

const links = Array.from({ length: count }, () => new Link());
const hosts = links.map(() => new Host());
// All of them or none.
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
  process.send({ id });
});

// The run has gone, however it ended: a worker that is stopped can't see that by itself.
process.on("disconnect", () => {
  for (const pid of processes) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended already.
    }
  }
  if (separate) endHosts();
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  process.exit(0);
});
// To the whole group, perhaps: it ends after the run, and cleans up.
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
