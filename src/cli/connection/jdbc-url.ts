import { partsOf, settingsOf } from "./url-parts.ts";

/** pgJDBC's names for settings that libpq has too (https://jdbc.postgresql.org/documentation/use/#connection-parameters). */
const keywords: Readonly<Record<string, string>> = {
  user: "user",
  password: "password",
  sslmode: "sslmode",
  sslrootcert: "sslrootcert",
  sslcert: "sslcert",
  sslkey: "sslkey",
  options: "options",
  service: "service",
  connectTimeout: "connect_timeout",
  ApplicationName: "application_name",
  gssEncMode: "gssencmode",
  channelBinding: "channel_binding",
};
const targets: Readonly<Record<string, string>> = {
  any: "any",
  primary: "primary",
  master: "primary",
  secondary: "standby",
  slave: "standby",
  preferSecondary: "prefer-standby",
  preferSlave: "prefer-standby",
};

/**
 * libpq's settings for `jdbc:postgresql://HOST:PORT,…/DATABASE?user=…`, in which the host may be missing. Settings that only pgJDBC has are
 * ignored, because they don't concern locks.
 *
 * @throws {Failure} as for `readConnectionString`
 */
export function jdbcSettings(text: string, from: string): [keyword: string, value: string][] {
  const rest = text.replace(/^jdbc:postgresql:/i, "");
  const parts = partsOf(rest.startsWith("//") ? rest.slice(2) : `/${rest}`, from);
  const pairs = settingsOf(parts, parts.path.replace(/^\//, ""), from);
  const given = new Map(parts.query);
  for (const [name, value] of parts.query) {
    const keyword = Object.hasOwn(keywords, name) ? keywords[name] : undefined;
    if (keyword !== undefined) pairs.push([keyword, value]);
    if (name === "ssl" && /^(true|)$/i.test(value) && !given.has("sslmode"))
      pairs.push(["sslmode", "verify-full"]);
    if (name === "targetServerType") pairs.push(["target_session_attrs", targets[value] ?? value]);
    if (name === "loadBalanceHosts" && value === "true") pairs.push(["load_balance_hosts", "random"]);
  }
  return pairs;
}
