import { isIP, type Socket as NetSocket, Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { PostgresJsOptions } from "./postgres-js.ts";

/** The address of a server. Its name is also the one that its certificate must have. */
export interface ServerAddress {
  readonly name: string;
  readonly at: { readonly host: string; readonly port: number } | { readonly path: string };
}

/** The server addresses in the options, in their order. */
export function addressesOf({ host, port, path }: PostgresJsOptions): [ServerAddress, ...ServerAddress[]] {
  const named = host.map((name, at) => ({
    name,
    at: typeof path === "string" ? { path } : { host: name, port: port[at] ?? port[0] ?? 5432 },
  }));
  const [first = { name: "localhost", at: { host: "localhost", port: 5432 } }, ...others] = named;
  // With a Unix socket there is one path, however many hosts.
  return typeof path === "string" ? [first] : [first, ...others];
}

/**
 * Connects to a server, with TLS if the options ask for it.
 *
 * @param opened called with the socket before it has connected, and then with the TLS socket, so that the caller can give up
 * @throws {Error} there was no connection, or no TLS
 */
export async function openSocket(
  options: PostgresJsOptions,
  address: ServerAddress,
  opened: (socket: Socket) => void,
): Promise<Socket> {
  const plain = await openPlain(options, address, opened);
  if (!options.ssl) return plain;
  if (options.sslnegotiation !== "direct" && !(await agreesToTls(plain))) {
    if (options.ssl === "prefer") return plain;
    plain.destroy();
    throw new Error("The server does not support SSL connections");
  }
  const secured = connectTls({
    socket: plain,
    ...(isIP(address.name) === 0 && { servername: address.name }),
    ...(options.sslnegotiation === "direct" && { ALPNProtocols: ["postgresql"] }),
    ...tlsOptions(options.ssl),
  });
  opened(secured);
  await happened(secured, "secureConnect");
  return secured;
}

async function openPlain(
  options: PostgresJsOptions,
  { at }: ServerAddress,
  opened: (socket: Socket) => void,
): Promise<Socket> {
  if (typeof options.socket === "function") {
    // A socket that the application made itself, already connected.
    const given = (await options.socket(options)) as Socket;
    opened(given);
    return given;
  }
  const socket = new Socket();
  opened(socket);
  socket.connect(at);
  await happened(socket, "connect");
  socket.setNoDelay?.(true);
  return socket;
}

/** Asks the server whether it supports TLS (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL). */
async function agreesToTls(socket: Socket): Promise<boolean> {
  socket.write(Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]));
  const answer = await new Promise<Buffer>((resolve, reject) => {
    const settle = (settled: () => void): void => {
      for (const [event, listener] of listeners) socket.removeListener(event, listener);
      settled();
    };
    const listeners = [
      ["data", (data: Buffer) => settle(() => resolve(data))],
      ["error", (error: Error) => settle(() => reject(error))],
      ["close", () => settle(() => reject(new Error("Connection terminated unexpectedly")))],
    ] as const;
    for (const [event, listener] of listeners) socket.on(event, listener);
  });
  // Unencrypted data after the answer was injected by an attacker.
  if (answer.length !== 1) throw new Error("Received data after the response to an SSL request");
  return answer[0] === "S".charCodeAt(0);
}

function tlsOptions(ssl: PostgresJsOptions["ssl"]): object {
  if (ssl === "require" || ssl === "allow" || ssl === "prefer") return { rejectUnauthorized: false };
  return typeof ssl === "object" && ssl !== null ? ssl : {};
}

/** Waits for an event of a socket. @throws {Error} the socket failed or was closed first */
function happened(socket: NetSocket, event: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (settled: () => void): void => {
      socket.removeListener(event, done);
      socket.removeListener("error", failed);
      socket.removeListener("close", closed);
      settled();
    };
    const done = (): void => settle(resolve);
    const failed = (error: Error): void => settle(() => reject(error));
    const closed = (): void => settle(() => reject(new Error("Connection terminated unexpectedly")));
    socket.once(event, done);
    socket.once("error", failed);
    socket.once("close", closed);
  });
}

/** The address to which a socket is connected, because by now the host name may point to another server. */
export function connectedAddress(socket: Socket, address: ServerAddress): ServerAddress {
  const { remoteAddress, remotePort } = socket;
  if ("path" in address.at || remoteAddress === undefined || remotePort === undefined) return address;
  return { name: address.name, at: { host: remoteAddress, port: remotePort } };
}
