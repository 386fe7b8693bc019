import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Redis } from "ioredis";

/**
 * Runs `work` with the URL of a Redis server: the one in `REDIS_URL`, otherwise a temporary one that keeps nothing on disk; `undefined` if
 * `redis-server` is not installed.
 */
export async function withRedis(work) {
  if (process.env.REDIS_URL) return await work(process.env.REDIS_URL);
  const folder = await mkdtemp(join(tmpdir(), "pg-locker-bench-redis-"));
  const port = await freePort();
  const server = spawn(
    "redis-server",
    ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
    { stdio: "ignore" },
  );
  const ended = new Promise((resolve) => server.once("close", resolve));
  try {
    const started = await Promise.race([
      once(server, "spawn").then(() => true),
      once(server, "error").then(() => false),
    ]);
    if (!started) return await work(undefined);
    const url = `redis://127.0.0.1:${port}`;
    await untilItAnswers(url);
    return await work(url);
  } finally {
    server.kill();
    await ended;
    await rm(folder, { recursive: true, force: true });
  }
}

/** Returns a connected client. It doesn't reconnect by itself, which would keep the bench from ending. */
export async function redisClient(url) {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null });
  client.on("error", () => {});
  await client.connect();
  return client;
}

async function untilItAnswers(url) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const client = await redisClient(url);
      await client.quit();
      return;
    } catch (error) {
      if (attempt === 100) throw error;
      await delay(50);
    }
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
