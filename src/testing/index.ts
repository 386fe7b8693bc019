export { PostgresServer } from "./postgres-server.ts";
export type { PostgresServerOptions } from "./postgres-server.ts";
export type { PostgresStopMode } from "./postgres-server.ts";
export type { PostgresMajor } from "./postgres-versions.ts";
