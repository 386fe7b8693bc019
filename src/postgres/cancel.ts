import type { EventEmitter } from "node:events";
import { isIP } from "node:net";
import { type Client, isSelfReliant } from "./driver.ts";

/** Milliseconds that a whole cancellation may take. */
const deadline = 5_000;

/**
 * Asks the server to cancel the statement that runs on a client, over a separate connection
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS). It connects to the client's own address,
 * with TLS if the client uses it. The connection doesn't count against `max_connections` and needs no password.
 *
 * Resolves when the server has closed that connection. By then the server has signalled the backend, so a caller that awaits both this
 * and the statement's answer can send its next statement without the cancellation hitting it. If the statement has already ended,
 * nothing happens: an idle session ignores a cancellation. If the server hasn't closed the connection after 5 s, it is reset.
 *
 * Never rejects. Does nothing if the driver is neither node-postgres in JavaScript nor postgres.js, or if the application gave the
 * client its own stream, which can't be created a second time.
 */
export function cancelStatement(client: Client): Promise<void> {
  if (isSelfReliant(client)) return client.cancelStatement();
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
      // A reset discards what the system has not sent yet: a cancellation sent so late would hit a later statement.
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

/** Whether {@link cancelStatement} works for this client. */
export function isCancellable(client: object): boolean {
  return isSelfReliant(client) || targetOf(client as CancellableClient) !== undefined;
}

/** Whether the client's current statement has this text. Checked before a cancellation, which hits whatever statement is running. */
export function isUnderWay(client: object, text: string): boolean {
  if (isSelfReliant(client)) return client.isUnderWay(text);
  const known = client as Record<"_activeQuery" | "activeQuery", { text?: unknown } | null | undefined>;
  // Older versions of node-postgres call it `activeQuery`, which prints a warning in newer ones.
  const active = "_activeQuery" in client ? known._activeQuery : known.activeQuery;
  return active?.text === text;
}

/** The members of node-postgres's client that a cancellation needs. */
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

/** An address as `connect` takes it: the path of a Unix socket, or a port and a host. */
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
  // The driver didn't create this stream itself, and the secret key must not be sent unencrypted.
  if (encrypted !== Boolean(ssl)) return undefined;
  const made = { pid: processID, secret: secretKey, sslNegotiation };
  const Connection = connection.constructor as CancelTarget["Connection"];
  if (host.startsWith("/")) {
    return { ...made, Connection, ssl: false, address: [`${host}/.s.PGSQL.${port}`] };
  }
  // The address, not the host name: by now the name may point to another server.
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return { ...made, Connection, ssl: tlsFor(host, ssl), address: [remotePort, remoteAddress] };
}

/** The TLS options, with the host's name, because the certificate is issued to the name and not to the address. */
function tlsFor(host: string, ssl: unknown): false | object {
  if (!ssl) return false;
  const given: { key?: unknown } = typeof ssl === "object" ? ssl : {};
  return {
    host,
    ...(isIP(host) === 0 && { servername: host }),
    ...given,
    // The driver makes `key` non-enumerable, so the spread does not copy it.
    ...("key" in given && { key: given.key }),
  };
}
