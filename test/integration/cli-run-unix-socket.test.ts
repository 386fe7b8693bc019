import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { databaseUrl } from "../support/database.ts";
import { runLocked } from "../support/locked-command.ts";
import { until } from "../support/until.ts";

const patient = { deadline: 15_000 };

test("over a Unix socket, the lock outlives a SIGKILL until the command has ended", async () => {
  const { hostname, port, username, pathname } = new URL(databaseUrl());
  const directory = await mkdtemp(join(tmpdir(), "pg-locker-"));
  const sockets = new Set<Socket>();
  const relay = createServer((client) => {
    const server = connect(Number(port), hostname);
    for (const socket of [client, server]) sockets.add(socket.on("error", () => {}));
    client.pipe(server).pipe(client);
  });
  try {
    relay.listen(join(directory, ".s.PGSQL.5432"));
    await once(relay, "listening");
    await using locked = await runLocked("trap '' TERM; while :; do sleep 0.1; done", {
      args: ["--ttl", "10m", "--grace", "3s"],
      env: {
        DATABASE_URL: undefined,
        PGHOST: directory,
        PGPORT: "5432",
        PGUSER: username,
        PGDATABASE: pathname.slice(1),
      },
    });
    locked.cli.signal("SIGKILL");
    await once(locked.cli.process, "exit");
    expect(await locked.isLocked()).toBe(true);
    expect(locked.lives).toBe(true);
    await until(() => !locked.lives, patient);
    await until(async () => !(await locked.isLocked()), patient);
  } finally {
    for (const socket of sockets) socket.destroy();
    relay.close();
    await rm(directory, { recursive: true });
  }
});
