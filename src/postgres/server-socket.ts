import { isIP, type Socket as NetSocket, Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { PostgresJsOptions } from "./postgres-js.ts";

/** Where a server listens: the name is also that of its certificate. */
export interface ServerAddress {
  readonly name: string;
  readonly at: { readonly host: string; readonly port: number } | { readonly path: string };
}

/** The addresses that the options name, in their order. */
export function addressesOf({ host, port, path }: PostgresJsOptions): [ServerAddress, ...ServerAddress[]] {
  const named = host.map((name, at) => ({
    name,
    at: typeof path === "string" ? { path } : { host: name, port: port[at] ?? port[0] ?? 5432 },
  }));
  const [first = { name: "localhost", at: { host: "localhost", port: 5432 } }, ...others] = named;
  // There is one path, whatever the hosts.
  return typeof path === "string" ? [first] : [first, ...others];
}

/**
 * Connects to a server, with TLS if the options want it.
 *
 * @param opened is told of the socket before it has connected, and of the one of TLS, so that it can be given up
 * @throws {Error} no connection, or no TLS
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
    // Of the application's own making, and connected already.
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

/** https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL */
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
  // What comes in the clear behind the answer is somebody else's.
  if (answer.length !== 1) throw new Error("Received data after the response to an SSL request");
  return answer[0] === "S".charCodeAt(0);
}

function tlsOptions(ssl: PostgresJsOptions["ssl"]): object {
  if (ssl === "require" || ssl === "allow" || ssl === "prefer") return { rejectUnauthorized: false };
  return typeof ssl === "object" && ssl !== null ? ssl : {};
}

/** @throws {Error} the socket failed or was closed before */
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

/** The address that a socket is connected to: a name may have become another server's meanwhile. */
export function connectedAddress(socket: Socket, address: ServerAddress): ServerAddress {
  const { remoteAddress, remotePort } = socket;
  if ("path" in address.at || remoteAddress === undefined || remotePort === undefined) return address;
  return { name: address.name, at: { host: remoteAddress, port: remotePort } };
}
