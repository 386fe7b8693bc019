// A TCP proxy that fails on demand, for the tests and for the chaos run, whose programs are plain JavaScript.
import { once } from "node:events";
import { connect, createServer } from "node:net";

const directions = ["toServer", "toClient"];

// A connection has a flow in each direction: what was read and not yet written. A paused source is not read, so its end isn't seen.

export class TcpProxy {
  #target;
  #address;
  #connections = new Set();
  #orphans = new Set();
  #frozen = new Set();
  #listener;
  #port = 0;
  #delay = 0;
  #onConnection;

  constructor(target, address) {
    this.#target = target;
    this.#address = address;
  }

  static async start(targetUrl, { address = "127.0.0.1" } = {}) {
    const proxy = new TcpProxy(new URL(targetUrl), address);
    await proxy.accept();
    return proxy;
  }

  get url() {
    const url = new URL(this.#target);
    url.hostname = this.#address;
    url.port = String(this.#port);
    return url.href;
  }

  get port() {
    return this.#port;
  }

  get size() {
    return this.#connections.size;
  }

  freeze({ direction } = {}) {
    for (const each of direction === undefined ? directions : [direction]) this.#frozen.add(each);
    this.#pumpAll();
  }

  thaw() {
    this.#frozen.clear();
    this.#pumpAll();
  }

  delay(milliseconds) {
    this.#delay = milliseconds;
  }

  retarget(targetUrl) {
    this.#target = new URL(targetUrl);
  }

  cut() {
    for (const connection of [...this.#connections]) this.#reset(connection);
  }

  halfClose(direction) {
    for (const connection of this.#connections) this.#push(connection, direction, "end");
  }

  resetClients({ orphanedFor }) {
    for (const connection of [...this.#connections]) {
      this.#forget(connection);
      const { client, server } = connection;
      client.resetAndDestroy();
      // The source is still read, so that its end is seen.
      server.removeAllListeners("data");
      server.resume();
      const end = () => {
        this.#orphans.delete(end);
        clearTimeout(timer);
        server.destroy();
      };
      const timer = setTimeout(end, orphanedFor);
      this.#orphans.add(end);
      server.on("close", end);
    }
  }

  endOrphans() {
    for (const end of [...this.#orphans]) end();
  }

  snapshot() {
    const those = [...this.#connections];
    return {
      freeze: ({ direction }) => {
        for (const connection of those) connection.frozen.add(direction);
      },
      thaw: () => {
        for (const connection of those) this.#thaw(connection);
      },
      endTowardsServer: () => {
        for (const connection of those) {
          this.#forget(connection);
          connection.server.destroy();
        }
      },
    };
  }

  held() {
    return new Promise((resolve) => {
      this.#onConnection = (connection) => {
        this.#onConnection = undefined;
        for (const direction of directions) connection.frozen.add(direction);
        resolve({ thaw: () => this.#thaw(connection) });
      };
    });
  }

  #thaw(connection) {
    connection.frozen.clear();
    for (const direction of directions) this.#pump(connection, direction);
  }

  async refuse() {
    const listener = this.#listener;
    this.#listener = undefined;
    // Its callback waits for every connection, but from now on no new one is accepted.
    listener?.close();
  }

  async accept() {
    if (this.#listener) return;
    const listener = createServer({ allowHalfOpen: true }, (client) => this.#connect(client));
    listener.listen(this.#port, this.#address);
    await once(listener, "listening");
    this.#port = listener.address().port;
    this.#listener = listener;
  }

  async [Symbol.asyncDispose]() {
    await this.refuse();
    this.cut();
    this.endOrphans();
  }

  #connect(client) {
    const host = this.#target.hostname || "127.0.0.1";
    const server = connect({ host, port: Number(this.#target.port || 5432), allowHalfOpen: true });
    const connection = {
      client,
      server,
      frozen: new Set(),
      toServer: { source: client, target: server, queue: [], timer: undefined },
      toClient: { source: server, target: client, queue: [], timer: undefined },
    };
    this.#connections.add(connection);
    this.#onConnection?.(connection);
    for (const direction of directions) {
      const { source } = connection[direction];
      source.setNoDelay(true);
      source.on("data", (data) => this.#push(connection, direction, data));
      source.on("end", () => this.#push(connection, direction, "end"));
      source.on("error", () => this.#push(connection, direction, "reset"));
      source.on("close", () => {
        if (client.destroyed && server.destroyed) this.#forget(connection);
      });
      if (this.#frozen.has(direction) || connection.frozen.has(direction)) source.pause();
    }
  }

  #push(connection, direction, data) {
    if (!this.#connections.has(connection)) return;
    connection[direction].queue.push({ data, due: performance.now() + this.#delay });
    this.#pump(connection, direction);
  }

  #pumpAll() {
    for (const connection of [...this.#connections])
      for (const direction of directions) this.#pump(connection, direction);
  }

  #pump(connection, direction) {
    const flow = connection[direction];
    clearTimeout(flow.timer);
    if (this.#frozen.has(direction) || connection.frozen.has(direction)) {
      flow.source.pause();
      return;
    }
    for (let item = flow.queue[0]; item; item = flow.queue[0]) {
      const early = item.due - performance.now();
      if (early > 0) {
        flow.timer = setTimeout(() => this.#pump(connection, direction), early);
        break;
      }
      flow.queue.shift();
      if (item.data === "reset") this.#reset(connection);
      else if (item.data === "end") flow.target.end();
      else if (flow.target.writable) flow.target.write(item.data);
    }
    flow.source.resume();
  }

  #forget(connection) {
    this.#connections.delete(connection);
    for (const direction of directions) {
      clearTimeout(connection[direction].timer);
      connection[direction].queue.length = 0;
    }
  }

  #reset(connection) {
    this.#forget(connection);
    connection.client.resetAndDestroy();
    connection.server.resetAndDestroy();
  }
}
