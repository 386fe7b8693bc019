// libpq's connection parameters, their variables, and what is done with them here. The list follows
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS and libpq-envars.html.

/** The value of a parameter, and what set it, in words for the user: `--url`, `PGHOST`, the service of a file. */
export interface Setting {
  readonly value: string;
  readonly from: string;
}

/** Settings by libpq's keywords. */
export type Settings = ReadonlyMap<string, Setting>;

interface Parameter {
  readonly variable?: string;
  /** `"names"`: if it is set, a database is meant, so the user's own PostgreSQL is never used. */
  readonly is: "names" | "tunes";
  /**
   * The values that this program supports: any other is refused by name. Absent: every value is supported, or makes no difference to
   * locks.
   */
  readonly only?: readonly string[];
  /** Why other values are refused, if that isn't obvious. */
  readonly because?: string;
}

/** The parameters by keyword. */
export const parameters: Readonly<Record<string, Parameter>> = {
  service: { variable: "PGSERVICE", is: "names" },
  servicefile: { variable: "PGSERVICEFILE", is: "names" },
  host: { variable: "PGHOST", is: "names" },
  hostaddr: { variable: "PGHOSTADDR", is: "names" },
  port: { variable: "PGPORT", is: "names" },
  dbname: { variable: "PGDATABASE", is: "names" },
  user: { variable: "PGUSER", is: "names" },
  password: { variable: "PGPASSWORD", is: "names" },
  passfile: { variable: "PGPASSFILE", is: "names" },
  options: { variable: "PGOPTIONS", is: "names" },
  target_session_attrs: {
    variable: "PGTARGETSESSIONATTRS",
    is: "names",
    only: ["any", "read-write", "primary"],
    because: "no lock can be taken on a standby",
  },
  load_balance_hosts: {
    variable: "PGLOADBALANCEHOSTS",
    is: "names",
    only: ["disable"],
    because: "everybody who uses a lock has to ask the same server",
  },
  sslmode: {
    variable: "PGSSLMODE",
    is: "names",
    only: ["disable", "allow", "prefer", "require", "verify-ca", "verify-full", "no-verify"],
  },
  requiressl: { variable: "PGREQUIRESSL", is: "names", only: ["0", "1"] },
  sslnegotiation: { variable: "PGSSLNEGOTIATION", is: "names", only: ["postgres", "direct"] },
  sslrootcert: { variable: "PGSSLROOTCERT", is: "names" },
  sslcert: { variable: "PGSSLCERT", is: "names" },
  sslkey: { variable: "PGSSLKEY", is: "names" },
  sslpassword: { is: "names" },
  sslcertmode: { variable: "PGSSLCERTMODE", is: "names", only: ["disable", "allow"] },
  sslcrl: { variable: "PGSSLCRL", is: "names" },
  sslcrldir: { variable: "PGSSLCRLDIR", is: "names", only: [] },
  sslsni: { variable: "PGSSLSNI", is: "names", only: ["1"] },
  sslcompression: { variable: "PGSSLCOMPRESSION", is: "names", only: ["0"] },
  ssl_min_protocol_version: {
    variable: "PGSSLMINPROTOCOLVERSION",
    is: "names",
    only: ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
  },
  ssl_max_protocol_version: {
    variable: "PGSSLMAXPROTOCOLVERSION",
    is: "names",
    only: ["TLSv1.2", "TLSv1.3"],
  },
  gssencmode: { variable: "PGGSSENCMODE", is: "names", only: ["disable", "prefer"] },
  channel_binding: { variable: "PGCHANNELBINDING", is: "names", only: ["disable", "prefer"] },
  require_auth: { variable: "PGREQUIREAUTH", is: "names", only: [] },
  requirepeer: { variable: "PGREQUIREPEER", is: "names", only: [] },
  krbsrvname: { variable: "PGKRBSRVNAME", is: "names", only: ["postgres"] },
  gsslib: { variable: "PGGSSLIB", is: "names", only: [] },
  gssdelegation: { variable: "PGGSSDELEGATION", is: "names", only: ["0"] },
  min_protocol_version: { variable: "PGMINPROTOCOLVERSION", is: "names", only: ["3.0"] },
  max_protocol_version: { variable: "PGMAXPROTOCOLVERSION", is: "names", only: ["3.0", "latest"] },
  replication: { is: "names", only: ["off", "false", "no", "0"] },
  connect_timeout: { variable: "PGCONNECT_TIMEOUT", is: "tunes" },
  application_name: { variable: "PGAPPNAME", is: "tunes" },
  fallback_application_name: { is: "tunes" },
  client_encoding: { variable: "PGCLIENTENCODING", is: "tunes" },
  keepalives: { is: "tunes" },
  keepalives_idle: { is: "tunes" },
  keepalives_interval: { is: "tunes" },
  keepalives_count: { is: "tunes" },
  tcp_user_timeout: { is: "tunes" },
};

/** The name of a setting for a sentence, such as `PGSSLMODE` or `sslmode of DATABASE_URL`. */
export function nameOf(keyword: string, { from }: Setting): string {
  return parameters[keyword]?.variable === from ? from : `${keyword} of ${from}`;
}
