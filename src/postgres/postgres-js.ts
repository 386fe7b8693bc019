/**
 * What is needed of postgres.js: the `sql` that `postgres(…)` returns. Nothing is ever run on it; its options tell how to reach the
 * server, and how many connections there may be.
 *
 * Why not `sql.reserve()`: postgres.js tells nobody that a reserved connection has gone. A statement on it ends the process then
 * (`Cannot read properties of null`); or goes to another session, if the pool has connected anew for somebody else, so that a holder
 * would go on without the lock. `driver-behavior.test.ts` shows both.
 */
export interface PostgresJs {
  unsafe(query: string, parameters?: never): PromiseLike<readonly unknown[]>;
  begin(run: never): Promise<unknown>;
  readonly options: { readonly max: number };
}

/** Its options, as it has read them: those that are read here. */
export interface PostgresJsOptions {
  readonly max: number;
  readonly host: readonly string[];
  readonly port: readonly number[];
  /** Of a Unix socket. */
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

/** `"verify-full"` is as `true`; `"require"`, `"allow"` and `"prefer"` check no certificate. */
export type TlsOption = "require" | "allow" | "prefer" | "verify-full" | boolean | null | undefined | object;

interface RowTransform {
  readonly from?: ((row: unknown) => unknown) | undefined;
}

/** What `postgres(…)` makes for one connection. */
export interface Engine {
  unsafe(text: string, values: unknown[], options?: { prepare?: boolean; simple?: boolean }): EngineQuery;
  end(options: { timeout: number }): Promise<void>;
}

export interface EngineQuery extends PromiseLike<EngineResult> {
  raw(): PromiseLike<EngineResult>;
}

/** Of one statement its rows, an array with more fields; of several, one such for each. */
export type EngineResult = EngineRows | readonly EngineRows[];

export interface EngineRows extends ReadonlyArray<unknown> {
  readonly command: string | null;
  readonly count: number | null;
}

/** Whether a value is the `sql` of postgres.js, not one of a transaction or of a reserved connection. */
export function isPostgresJs(value: unknown): value is PostgresJs {
  if (typeof value !== "function") return false;
  const { unsafe, options } = value as { unsafe?: unknown; options?: Partial<PostgresJsOptions> };
  return typeof unsafe === "function" && typeof options?.shared === "object" && Array.isArray(options.host);
}

export function optionsOf(sql: PostgresJs): PostgresJsOptions {
  return sql.options as unknown as PostgresJsOptions;
}

/** Makes one that has a single connection. */
export type MakeEngine = (options: object) => Engine;

/**
 * Loads postgres.js, which is the application's own: whoever uses node-postgres has none.
 *
 * @throws {Error} there is none
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
