/**
 * The `sql` that `postgres(…)` of postgres.js returns. The locker runs nothing on it. It only reads the options: how to reach the server,
 * and how many connections there may be.
 *
 * It doesn't use `sql.reserve()`, because postgres.js tells nobody that a reserved connection has gone. The next statement on it ends the
 * process (`Cannot read properties of null`), or goes to another session if the pool has reconnected for somebody else, so that a holder
 * would go on without the lock. `driver-behavior.test.ts` shows both.
 */
export interface PostgresJs {
  unsafe(query: string, parameters?: never): PromiseLike<readonly unknown[]>;
  begin(run: never): Promise<unknown>;
  readonly options: { readonly max: number };
}

/** The options of an `sql`, as postgres.js has parsed them: those that are used here. */
export interface PostgresJsOptions {
  readonly max: number;
  readonly host: readonly string[];
  readonly port: readonly number[];
  /** The path of a Unix socket. */
  readonly path: string | false | undefined;
  readonly pass: string | (() => string | Promise<string>);
  readonly ssl: TlsOption;
  readonly sslnegotiation?: "direct" | null;
  /** Seconds. */
  readonly connect_timeout?: number | null;
  readonly socket?: ((options: object) => unknown) | undefined;
  readonly transform: { readonly row?: RowTransform };
  readonly shared: object;
}

/** `"verify-full"` means the same as `true`; `"require"`, `"allow"` and `"prefer"` check no certificate. */
export type TlsOption = "require" | "allow" | "prefer" | "verify-full" | boolean | null | undefined | object;

interface RowTransform {
  readonly from?: ((row: unknown) => unknown) | undefined;
}

/** An instance of postgres.js with one connection. */
export interface Engine {
  unsafe(text: string, values: unknown[], options?: { prepare?: boolean; simple?: boolean }): EngineQuery;
  end(options: { timeout: number }): Promise<void>;
}

export interface EngineQuery extends PromiseLike<EngineResult> {
  raw(): PromiseLike<EngineResult>;
}

/** The rows of one statement, as an array with more fields; for several statements, one such array for each. */
export type EngineResult = EngineRows | readonly EngineRows[];

export interface EngineRows extends ReadonlyArray<unknown> {
  readonly command: string | null;
  readonly count: number | null;
}

/** Whether a value is an `sql` of postgres.js, but not that of a transaction or of a reserved connection. */
export function isPostgresJs(value: unknown): value is PostgresJs {
  if (typeof value !== "function") return false;
  const { unsafe, options } = value as { unsafe?: unknown; options?: Partial<PostgresJsOptions> };
  return typeof unsafe === "function" && typeof options?.shared === "object" && Array.isArray(options.host);
}

export function optionsOf(sql: PostgresJs): PostgresJsOptions {
  return sql.options as unknown as PostgresJsOptions;
}

/** Makes an instance of postgres.js with one connection. */
export type MakeEngine = (options: object) => Engine;

/**
 * Loads the application's postgres.js. An application that uses node-postgres needs none.
 *
 * @throws {TypeError} it is not installed
 */
export async function loadPostgresJs(): Promise<MakeEngine> {
  try {
    const { default: postgres } = await import("postgres");
    return postgres as unknown as MakeEngine;
  } catch (cause) {
    throw new TypeError("the option `sql` needs the package `postgres` (postgres.js) beside pg-locker", {
      cause,
    });
  }
}
