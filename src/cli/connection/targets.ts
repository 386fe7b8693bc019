import { isIP } from "node:net";
import { usageFailure } from "../failure.ts";
import { nameOf, type Settings } from "./parameters.ts";
import { type Encryption, encryptions } from "./tls.ts";

/** One way to reach a server. */
export interface Target {
  /** The host as it was given: a name, an address, or the folder of a socket. */
  readonly host: string;
  /** What the driver connects to: the host, or the address that is given for it. */
  readonly address: string;
  readonly port: number;
  readonly ssl: Encryption;
}

/** The longest name of a host, in characters. The folder of a socket is shorter. */
const longestHost = 253;

/**
 * The ways to reach the named servers, in the order in which they are tried: each host, with each way to encrypt the connection.
 *
 * @throws {Failure} a host is too long, the numbers of hosts, addresses and ports don't match, or a TLS file can't be read
 */
export function targetsOf(settings: Settings): Target[] {
  const addresses = list(settings, "hostaddr");
  const hosts = list(settings, "host") ?? addresses ?? ["localhost"];
  if (hosts.some((host) => host.length > longestHost)) {
    throw usageFailure(`${named(settings, "host")} is longer than the name of any host`);
  }
  const ports = list(settings, "port") ?? [""];
  if (addresses !== undefined && addresses.length !== hosts.length)
    throw mismatch(settings, "hostaddr", hosts.length);
  if (ports.length !== 1 && ports.length !== hosts.length) throw mismatch(settings, "port", hosts.length);
  const ways = encryptions(settings);
  return hosts.flatMap((each, at) => {
    const host = each === "" ? (addresses?.[at] ?? "localhost") : each;
    const address = addresses?.[at] || host;
    if (addresses?.[at] && isIP(address) === 0) {
      throw usageFailure(`${named(settings, "hostaddr")} takes numeric addresses, such as 192.0.2.7`);
    }
    const port = portOf(ports.length === 1 ? ports[0] : ports[at], settings);
    // Servers don't use TLS over a Unix socket.
    if (address.startsWith("/")) return [{ host, address, port, ssl: false as const }];
    return ways.map((ssl) => {
      // The certificate has to name the host, not its address.
      const servername = ssl !== false && address !== host && isIP(host) === 0 ? { servername: host } : {};
      return { host, address, port, ssl: ssl === false ? ssl : { ...ssl, ...servername } };
    });
  });
}

function list(settings: Settings, keyword: string): string[] | undefined {
  const value = settings.get(keyword)?.value;
  return value === undefined || value === "" ? undefined : value.split(",").map((each) => each.trim());
}

function portOf(text: string | undefined, settings: Settings): number {
  if (text === undefined || text === "") return 5432;
  const port = Number(text);
  if (/^\d+$/.test(text) && port >= 1 && port <= 65_535) return port;
  throw usageFailure(`${named(settings, "port")} is not a number from 1 to 65535`);
}

function mismatch(settings: Settings, keyword: string, hosts: number): Error {
  const wanted = keyword === "port" ? `one, or ${hosts}` : `${hosts}`;
  return usageFailure(`${named(settings, keyword)} has to name ${wanted}, as many as there are hosts`);
}

function named(settings: Settings, keyword: string): string {
  const setting = settings.get(keyword);
  return setting === undefined ? keyword : nameOf(keyword, setting);
}
