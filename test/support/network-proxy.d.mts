export type ProxyDirection = "toServer" | "toClient";

/**
 * A TCP proxy in front of a server, which fails on demand. Both sides see open sockets while it is frozen, as they do when a
 * network drops packets.
 */
export class TcpProxy implements AsyncDisposable {
  private constructor();

  /** Listens on a free port, of 127.0.0.1 by default, in front of the server that a connection string names. */
  static start(targetUrl: string, options?: { readonly address?: string }): Promise<TcpProxy>;

  /** The connection string, by way of the proxy. */
  get url(): string;

  get port(): number;

  /** How many connections it carries. */
  get size(): number;

  /** Forwards nothing more, in one direction or (the default) in both. Connections are still accepted. */
  freeze(options?: { readonly direction?: ProxyDirection }): void;

  /** Forwards what was held back, and everything from here on. */
  thaw(): void;

  /** Everything read from here on is forwarded `milliseconds` later, each way. 0 (the default) is at once. */
  delay(milliseconds: number): void;

  /** Connections are made to another server from here on. Those that there are stay with theirs. */
  retarget(targetUrl: string): void;

  /** Resets every connection, on both sides. New ones are accepted. */
  cut(): void;

  /** Ends the flow in one direction with a FIN, after what is in it. The other direction goes on. */
  halfClose(direction: ProxyDirection): void;

  /** Resets the client's end of every connection. The server's end stays open for that many milliseconds, as if nothing had happened. */
  resetClients(options: { readonly orphanedFor: number }): void;

  /** Ends what {@link resetClients} has left open. */
  endOrphans(): void;

  /** The connections that there are now. `endTowardsServer` ends them there, and tells their clients nothing. */
  snapshot(): {
    freeze(options: { readonly direction: ProxyDirection }): void;
    thaw(): void;
    endTowardsServer(): void;
  };

  /** The next connection that is made. Nothing is forwarded on it until `thaw`. */
  held(): Promise<{ thaw(): void }>;

  /** Refuses new connections. Those that there are go on. */
  refuse(): Promise<void>;

  /** Accepts connections again after {@link refuse}, on the same port. */
  accept(): Promise<void>;

  [Symbol.asyncDispose](): Promise<void>;
}
