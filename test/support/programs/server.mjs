// Starts a PostgreSQL server of the major version in its argument, and leaves it running.
import { dirname } from "node:path";
import { PostgresServer } from "../../../dist/testing/postgres/postgres-server.js";

const server = await PostgresServer.start({ major: Number(process.argv[2]) });
console.log(JSON.stringify({ url: server.url, directory: dirname(server.dataDirectory) }));
setInterval(() => {}, 1000);
