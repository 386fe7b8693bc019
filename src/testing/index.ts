export { PostgresServer } from "./postgres-server.ts";
export type { PostgresServerOptions } from "./postgres-server.ts";
export type { PostgresStopMode } from "./postgres-server.ts";
export type { PostgresMajor } from "./postgres-versions.ts";
export type { ContractRunner } from "./contract.ts";
export type { LockerContractOptions } from "./contract.ts";
export type { LockerDeviation } from "./contract-cases.ts";
export type { LockerFixture } from "./contract.ts";
export { testLockerContract } from "./contract.ts";
