import type { EventEmitter } from "node:events";
import { isIP } from "node:net";
import type { Client } from "./driver.ts";

/** Milliseconds for all of a cancellation. */
const deadline = 5_000;

/**
 * Asks the server to cancel the statement that runs on a client, over a connection of its own
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS). It is made to the address that
 * the client is connected to, and by TLS if the client is. Takes no place of `max_connections`, and needs no password.
 *
 * Resolves when the server has closed that connection: by then it has sent the signal, so that whoever waits for this and for
 * the statement's answer can send the next statement, and the cancellation does not hit that one. The statement may have ended
 * before; a session that is idle is not harmed. After 5 s without an end the connection is reset.
 *
 * Never rejects. Does nothing if the driver is not node-postgres's JavaScript one, or if the client has a stream of the
 * application's own, which can't be made again.
 */
export function cancelStatement(client: Client): Promise<void> {
  const target = targetOf(client as CancellableClient);
  if (target === undefined) return Promise.resolve();
  return new Promise((resolve) => {
    let connection: Connection;
    try {
      const { Connection, ssl, sslNegotiation } = target;
      connection = new Connection({ ssl, sslNegotiation });
    } catch {
      resolve();
      return;
    }
    const over = (): void => {
      clearTimeout(timer);
      connection.stream.destroy();
      resolve();
    };
    const timer = setTimeout(() => {
      // A reset takes back what the system has not sent yet: it would hit some later statement.
      connection.stream.resetAndDestroy?.();
      over();
    }, deadline);
    const cancel = (): void => connection.cancel(target.pid, target.secret);
    connection.on("error", over);
    connection.on("end", over);
    if (target.ssl === false) {
      connection.on("connect", cancel);
    } else {
      if (target.sslNegotiation !== "direct") connection.on("connect", () => connection.requestSsl());
      connection.on("sslconnect", cancel);
    }
    connection.connect(...target.address);
  });
}

/** Whether {@link cancelStatement} can do something for a client. */
export function isCancellable(client: object): boolean {
  return targetOf(client as CancellableClient) !== undefined;
}

/** Whether a statement of this text is what the client has sent last: a cancellation hits whatever the server is at. */
export function isUnderWay(client: object, text: string): boolean {
  const known = client as Record<"_activeQuery" | "activeQuery", { text?: unknown } | null | undefined>;
  // The other name is that of older versions; in newer ones, it warns.
  const active = "_activeQuery" in client ? known._activeQuery : known.activeQuery;
  return active?.text === text;
}

/** What is needed of the driver. */
interface CancellableClient {
  readonly connection?: Partial<Connection> & { readonly stream?: Partial<Connection["stream"]> };
  readonly processID?: unknown;
  readonly secretKey?: unknown;
  readonly host?: unknown;
  readonly port?: unknown;
  readonly ssl?: unknown;
  readonly sslNegotiation?: unknown;
}

interface Connection extends EventEmitter {
  readonly stream: {
    destroy(): void;
    resetAndDestroy?(): void;
    readonly encrypted?: boolean;
    readonly remoteAddress?: string | undefined;
    readonly remotePort?: number | undefined;
  };
  connect(...address: Address): void;
  requestSsl(): void;
  cancel(pid: number, secret: unknown): void;
}

/** A path, or a port and a host. */
type Address = [string] | [number, string];

interface CancelTarget {
  readonly Connection: new (options: object) => Connection;
  readonly pid: number;
  readonly secret: unknown;
  readonly address: Address;
  readonly ssl: false | object;
  readonly sslNegotiation: unknown;
}

function targetOf(client: CancellableClient): CancelTarget | undefined {
  const { connection, processID, secretKey, host, port, ssl, sslNegotiation } = client;
  if (typeof connection?.cancel !== "function" || typeof connection.requestSsl !== "function")
    return undefined;
  if (typeof processID !== "number" || secretKey == null) return undefined;
  if (typeof host !== "string" || typeof port !== "number") return undefined;
  const { remoteAddress, remotePort, encrypted = false } = connection.stream ?? {};
  // Not made by the driver itself; and the secret is not to go out in the clear.
  if (encrypted !== Boolean(ssl)) return undefined;
  const made = { pid: processID, secret: secretKey, sslNegotiation };
  const Connection = connection.constructor as CancelTarget["Connection"];
  if (host.startsWith("/")) {
    return { ...made, Connection, ssl: false, address: [`${host}/.s.PGSQL.${port}`] };
  }
  // A name may have become another server's meanwhile.
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return { ...made, Connection, ssl: tlsFor(host, ssl), address: [remotePort, remoteAddress] };
}

/** The certificate is that of the host's name, not of its address. */
function tlsFor(host: string, ssl: unknown): false | object {
  if (!ssl) return false;
  const given: { key?: unknown } = typeof ssl === "object" ? ssl : {};
  return {
    host,
    ...(isIP(host) === 0 && { servername: host }),
    ...given,
    // The driver hides it from a copy.
    ...("key" in given && { key: given.key }),
  };
}
