import type { ConnectionOptions } from "node:tls";
import { usageFailure } from "../failure.ts";
import { homeFile, readNamedFile } from "./named-file.ts";
import { nameOf, type Settings } from "./parameters.ts";

/** A way to connect: without TLS, or with these TLS options. */
export type Encryption = false | ConnectionOptions;

/**
 * The ways to connect, in the order in which they are tried, according to `sslmode` as in libpq
 * (https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS), plus node-postgres's `no-verify`. If `sslmode` is
 * not set, there is no TLS, as in node-postgres. If there is a file of root certificates, one of them must have signed the server's
 * certificate, even with `allow`, `prefer` and `require`. Without such a file, libpq refuses to verify; here `verify-ca` and `verify-full` use
 * the root certificates of Node.js, and both verify the server's name.
 *
 * @throws {Failure} a named file can't be read
 */
export function encryptions(settings: Settings): Encryption[] {
  const mode = modeOf(settings);
  const negotiation = settings.get("sslnegotiation");
  if (negotiation?.value === "direct" && /^(disable|allow|prefer)$/.test(mode)) {
    const name = nameOf("sslnegotiation", negotiation);
    throw usageFailure(`${name} is "direct", which needs an sslmode of "require" or stricter`);
  }
  if (mode === "disable") return [false];
  const files = filesOf(settings);
  const encrypted = { ...files, ...verification(mode, files.ca !== undefined) };
  if (mode === "allow") return [false, encrypted];
  return mode === "prefer" ? [encrypted, false] : [encrypted];
}

function modeOf(settings: Settings): string {
  const mode = settings.get("sslmode")?.value;
  const isSystem = settings.get("sslrootcert")?.value === "system";
  if (mode !== undefined) {
    if (isSystem && mode !== "verify-full") {
      throw usageFailure('sslrootcert=system needs an sslmode of "verify-full"');
    }
    return mode;
  }
  if (isSystem) return "verify-full";
  return settings.get("requiressl")?.value === "1" ? "require" : "disable";
}

function verification(mode: string, hasRoots: boolean): ConnectionOptions {
  if (mode === "verify-full" || (mode === "verify-ca" && !hasRoots)) return { rejectUnauthorized: true };
  // If there is a file of root certificates, libpq verifies the server with it in every mode.
  if (!hasRoots || mode === "no-verify") return { rejectUnauthorized: false };
  return { rejectUnauthorized: true, checkServerIdentity: () => undefined };
}

function filesOf(settings: Settings): ConnectionOptions {
  const read = (keyword: string, usual?: string): string | undefined => {
    const setting = settings.get(keyword);
    if (setting !== undefined) return readNamedFile(setting.value, nameOf(keyword, setting));
    return usual === undefined ? undefined : readNamedFile(usual, keyword);
  };
  const isSystem = settings.get("sslrootcert")?.value === "system";
  const ca = isSystem ? undefined : read("sslrootcert", homeFile(".postgresql", "root.crt"));
  const crl = read("sslcrl", homeFile(".postgresql", "root.crl"));
  const hasCertificate = settings.get("sslcertmode")?.value !== "disable";
  const cert = hasCertificate ? read("sslcert", homeFile(".postgresql", "postgresql.crt")) : undefined;
  const key = cert === undefined ? undefined : read("sslkey", homeFile(".postgresql", "postgresql.key"));
  const passphrase = settings.get("sslpassword")?.value;
  const least = settings.get("ssl_min_protocol_version")?.value;
  const most = settings.get("ssl_max_protocol_version")?.value;
  return {
    ...(ca !== undefined && { ca }),
    ...(crl !== undefined && { crl }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(passphrase !== undefined && { passphrase }),
    // Node.js doesn't use older versions anyway.
    ...(least === "TLSv1.3" && { minVersion: "TLSv1.3" as const }),
    ...(most === "TLSv1.2" && { maxVersion: "TLSv1.2" as const }),
  };
}
