import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** A host of its own, as far as the network is concerned: it reaches one server, over a link that can vanish. Needs Linux and root. */
export class NetworkNamespace implements AsyncDisposable {
  /** The connection string of the server, as reached from inside. */
  readonly url: string;
  /** The beginning of a command that runs inside. */
  readonly prefix: readonly string[];
  readonly #name: string;
  readonly #link: string;
  readonly #relay: Server;
  readonly #sockets: ReadonlySet<Socket>;

  private constructor(parts: {
    name: string;
    link: string;
    url: string;
    relay: Server;
    sockets: ReadonlySet<Socket>;
  }) {
    this.#name = parts.name;
    this.#link = parts.link;
    this.#relay = parts.relay;
    this.#sockets = parts.sockets;
    this.url = parts.url;
    this.prefix = ["ip", "netns", "exec", parts.name];
  }

  /** Whether this machine lets us make one. */
  static get allowed(): boolean {
    const name = `pgl${randomBytes(3).toString("hex")}`;
    if (!succeeds("netns", "add", name)) return false;
    const linked = succeeds("-n", name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1");
    succeeds("netns", "del", name);
    return linked;
  }

  /** Makes one that reaches the server of a connection string. */
  static async create(targetUrl: string): Promise<NetworkNamespace> {
    const target = new URL(targetUrl);
    const name = `pgl${randomBytes(3).toString("hex")}`;
    const [link, peer] = [`${name}h`, `${name}n`];
    // A network of four addresses, from the range for documentation and benchmarks (RFC 2544).
    const [third = 0, fourth = 0] = randomBytes(2);
    const address = (host: number): string => `198.18.${third}.${(fourth & 0xfc) + host}`;
    for (const command of [
      `netns add ${name}`,
      `link add ${link} type veth peer name ${peer}`,
      `link set ${peer} netns ${name}`,
      `addr add ${address(1)}/30 dev ${link}`,
      `link set ${link} up`,
      `-n ${name} addr add ${address(2)}/30 dev ${peer}`,
      `-n ${name} link set ${peer} up`,
      `-n ${name} link set lo up`,
    ]) {
      if (!succeeds(...command.split(" "))) throw new Error(`ip ${command} failed`);
    }
    const there = { host: target.hostname, port: Number(target.port || 5432) };
    const sockets = new Set<Socket>();
    const relay = createServer((client) => {
      const server = connect(there);
      for (const socket of [client, server]) {
        sockets.add(socket);
        socket.on("error", () => {});
      }
      client.pipe(server);
      server.pipe(client);
    });
    relay.listen(0, address(1));
    await once(relay, "listening");
    target.hostname = address(1);
    target.port = String((relay.address() as AddressInfo).port);
    return new NetworkNamespace({ name, link, url: target.href, relay, sockets });
  }

  /** From now on, every packet is lost in both directions, and nobody is told. */
  vanish(): void {
    if (!succeeds("link", "del", this.#link)) throw new Error("the link is gone already");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#relay.close();
    for (const socket of this.#sockets) socket.destroy();
    succeeds("link", "del", this.#link);
    succeeds("netns", "del", this.#name);
  }
}

function succeeds(...args: string[]): boolean {
  return spawnSync("ip", args, { stdio: "ignore" }).status === 0;
}
