import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export type ProxyDirection = "toServer" | "toClient";

const DIRECTIONS: readonly ProxyDirection[] = ["toServer", "toClient"];

/** A link's flow in one direction: what was read and not yet written. A paused source is not read, so its end isn't seen. */
interface Flow {
  readonly source: Socket;
  readonly target: Socket;
  readonly queue: { readonly data: Buffer | "end" | "reset"; readonly due: number }[];
  timer: NodeJS.Timeout | undefined;
}

type Link = Record<ProxyDirection, Flow>;

/**
 * A TCP proxy in front of a server, which fails on demand. Both sides see open sockets while it is frozen, as they do when a
 * network drops packets.
 */
export class TcpProxy implements AsyncDisposable {
  #target: URL;
  readonly #links = new Set<Link>();
  readonly #frozen = new Set<ProxyDirection>();
  #listener: Server | undefined;
  #port = 0;
  #delay = 0;

  private constructor(target: URL) {
    this.#target = target;
  }

  /** Listens on a free port of 127.0.0.1, in front of the server that a connection string names. */
  static async start(targetUrl: string): Promise<TcpProxy> {
    const proxy = new TcpProxy(new URL(targetUrl));
    await proxy.accept();
    return proxy;
  }

  /** The connection string, by way of the proxy. */
  get url(): string {
    const url = new URL(this.#target);
    url.hostname = "127.0.0.1";
    url.port = String(this.#port);
    return url.href;
  }

  get port(): number {
    return this.#port;
  }

  /** How many connections it carries. */
  get size(): number {
    return this.#links.size;
  }

  /** Forwards nothing more, in one direction or (the default) in both. Connections are still accepted. */
  freeze(options: { direction?: ProxyDirection } = {}): void {
    for (const direction of options.direction ? [options.direction] : DIRECTIONS) this.#frozen.add(direction);
    this.#pumpAll();
  }

  /** Forwards what was held back, and everything from here on. */
  thaw(): void {
    this.#frozen.clear();
    this.#pumpAll();
  }

  /** Everything read from here on is forwarded `milliseconds` later, each way. 0 (the default) is at once. */
  delay(milliseconds: number): void {
    this.#delay = milliseconds;
  }

  /** Connections are made to another server from here on. Those that there are stay with theirs. */
  retarget(targetUrl: string): void {
    this.#target = new URL(targetUrl);
  }

  /** Resets every connection, on both sides. New ones are accepted. */
  cut(): void {
    for (const link of [...this.#links]) this.#reset(link);
  }

  /** Ends the flow in one direction with a FIN, after what is in it. The other direction goes on. */
  halfClose(direction: ProxyDirection): void {
    for (const link of this.#links) this.#push(link, direction, "end");
  }

  /** Refuses new connections. Those that there are go on. */
  async refuse(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    // Its callback waits for every connection; that nobody is let in any more is so at once.
    listener?.close();
  }

  /** Accepts connections again after {@link refuse}, on the same port. */
  async accept(): Promise<void> {
    if (this.#listener) return;
    const listener = createServer({ allowHalfOpen: true }, (client) => this.#connect(client));
    listener.listen(this.#port, "127.0.0.1");
    await once(listener, "listening");
    this.#port = (listener.address() as AddressInfo).port;
    this.#listener = listener;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.refuse();
    this.cut();
  }

  #connect(client: Socket): void {
    const host = this.#target.hostname || "127.0.0.1";
    const server = connect({ host, port: Number(this.#target.port || 5432), allowHalfOpen: true });
    const link: Link = {
      toServer: { source: client, target: server, queue: [], timer: undefined },
      toClient: { source: server, target: client, queue: [], timer: undefined },
    };
    this.#links.add(link);
    for (const direction of DIRECTIONS) {
      const { source } = link[direction];
      source.setNoDelay(true);
      source.on("data", (data) => this.#push(link, direction, data));
      source.on("end", () => this.#push(link, direction, "end"));
      source.on("error", () => this.#push(link, direction, "reset"));
      source.on("close", () => {
        if (client.destroyed && server.destroyed) this.#links.delete(link);
      });
      if (this.#frozen.has(direction)) source.pause();
    }
  }

  #push(link: Link, direction: ProxyDirection, data: Buffer | "end" | "reset"): void {
    link[direction].queue.push({ data, due: performance.now() + this.#delay });
    this.#pump(link, direction);
  }

  #pumpAll(): void {
    for (const link of this.#links) for (const direction of DIRECTIONS) this.#pump(link, direction);
  }

  #pump(link: Link, direction: ProxyDirection): void {
    const flow = link[direction];
    clearTimeout(flow.timer);
    if (this.#frozen.has(direction)) {
      flow.source.pause();
      return;
    }
    for (let item = flow.queue[0]; item; item = flow.queue[0]) {
      const early = item.due - performance.now();
      if (early > 0) {
        flow.timer = setTimeout(() => this.#pump(link, direction), early);
        break;
      }
      flow.queue.shift();
      if (item.data === "reset") this.#reset(link);
      else if (item.data === "end") flow.target.end();
      else if (flow.target.writable) flow.target.write(item.data);
    }
    flow.source.resume();
  }

  #reset(link: Link): void {
    for (const direction of DIRECTIONS) {
      clearTimeout(link[direction].timer);
      link[direction].queue.length = 0;
      link[direction].source.resetAndDestroy();
    }
    this.#links.delete(link);
  }
}
