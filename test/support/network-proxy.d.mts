export type ProxyDirection = "toServer" | "toClient";

/**
 * A TCP proxy in front of a server, which fails on demand. While it is frozen, both sides see open sockets, as they do when a network drops
 * packets.
 */
export class TcpProxy implements AsyncDisposable {
  private constructor();

  /** Listens on a free port, of 127.0.0.1 by default, in front of the server that a connection string names. */
  static start(targetUrl: string, options?: { readonly address?: string }): Promise<TcpProxy>;

  /** The connection string for the server, through the proxy. */
  get url(): string;

  get port(): number;

  /** The number of connections that it carries. */
  get size(): number;

  /** Stops forwarding, in one direction or (the default) in both. Connections are still accepted. */
  freeze(options?: { readonly direction?: ProxyDirection }): void;

  /** Forwards what was held back, and everything from now on. */
  thaw(): void;

  /** From now on, forwards everything `milliseconds` after it was read, in each direction. 0 (the default) means at once. */
  delay(milliseconds: number): void;

  /** From now on, connects to another server. Existing connections stay with theirs. */
  retarget(targetUrl: string): void;

  /** Resets every connection, on both sides. New ones are accepted. */
  cut(): void;

  /** Ends the flow in one direction with a FIN, after what is under way in it. The other direction goes on. */
  halfClose(direction: ProxyDirection): void;

  /** Resets the client's end of every connection. The server's end stays open for that many milliseconds, as if nothing had happened. */
  resetClients(options: { readonly orphanedFor: number }): void;

  /** Ends the server's ends that {@link resetClients} has left open. */
  endOrphans(): void;

  /** The present connections. `endTowardsServer` ends them at the server, and tells their clients nothing. */
  snapshot(): {
    freeze(options: { readonly direction: ProxyDirection }): void;
    thaw(): void;
    endTowardsServer(): void;
  };

  /** Resolves with the next connection. Nothing is forwarded on it until `thaw`. */
  held(): Promise<{ thaw(): void }>;

  /** Refuses new connections. Existing ones go on. */
  refuse(): Promise<void>;

  /** Accepts connections again after {@link refuse}, on the same port. */
  accept(): Promise<void>;

  [Symbol.asyncDispose](): Promise<void>;
}
