// Holds locks with the pool of @neondatabase/serverless, whose driver uses a WebSocket, as Neon's proxy expects.
import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { neonConfig, Pool } from "@neondatabase/serverless";
import { PostgresLocker } from "pg-locker";
import { WebSocket, WebSocketServer } from "ws";

const connectionString = process.env.DATABASE_URL;
const { hostname, port } = new URL(connectionString);
const proxy = new WebSocketServer({ port: 0, host: "127.0.0.1" });
await once(proxy, "listening");
proxy.on("connection", (socket) => {
  const server = net.connect(Number(port), hostname);
  socket.on("message", (data) => server.write(data));
  socket.on("close", () => server.destroy());
  server.on("data", (data) => socket.send(data));
  server.on("close", () => socket.close());
  server.on("error", () => socket.close());
});

neonConfig.webSocketConstructor = WebSocket;
neonConfig.wsProxy = () => `127.0.0.1:${proxy.address().port}/`;
neonConfig.useSecureWebSocket = false;
neonConfig.forceDisablePgSSL = true;
neonConfig.pipelineConnect = false;
neonConfig.pipelineTLS = false;

const pool = new Pool({ connectionString });
pool.on("error", () => {});
let sessionsTried = 0;
for (const sessions of ["dedicated", "shared"]) {
  const locker = new PostgresLocker({ pool, sessions });
  const key = `neon:${process.pid}:${sessions}`;
  for (let times = 0; times < 3; times += 1) {
    const lock = await locker.acquire(key);
    assert.equal(await locker.tryAcquire(key), undefined);
    await lock.refresh();
    await lock.release();
  }
  await locker.withLock(key, () => locker.withTransaction(`${key}:t`, (client) => client.query("select 1")));
  const held = await locker.acquire(key);
  const waiting = locker.acquire(key, { wait: "20s" });
  await held.release();
  await (await waiting).release();
  await locker.ping();
  await locker.close();
  sessionsTried += 1;
}
await pool.end();
proxy.close();
console.log(`${sessionsTried} sessions`);
