import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { CliChild, cli } from "../support/cli.ts";
import { advisoryLocks, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { idle, onDatabase, runLocked } from "../support/locked-command.ts";
import { lives } from "../support/tagged-processes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const patient = { deadline: 15_000 };
const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const number = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 };

/** A server that accepts connections and never says a word, such as a stopped postmaster or another program's port. */
async function silentServer(): Promise<AsyncDisposable & { url: string; connected: Promise<unknown> }> {
  const server: Server = createServer((socket) => socket.on("error", () => {}));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = typeof address === "object" ? address?.port : undefined;
  return {
    url: `postgres://someone@127.0.0.1:${port}/db`,
    connected: once(server, "connection"),
    async [Symbol.asyncDispose]() {
      server.close();
    },
  };
}

describe("a server that accepts and says nothing", () => {
  test.each(signals)("is given up at %s, and nothing is run", async (signal) => {
    await using server = await silentServer();
    const args = ["run", uniqueKey(), "--wait", "--", "echo", "run"];
    await using child = CliChild.start(args, onDatabase({ DATABASE_URL: server.url }));
    await server.connected;
    child.signal(signal);
    expect(await child.ended).toMatchObject({ status: 128 + number[signal], stdout: "", stderr: "" });
  });

  test("ends the run with 69 if no wait was asked for", async () => {
    await using server = await silentServer();
    const { status, stdout } = await cli(
      ["run", uniqueKey(), "--", "echo", "run"],
      onDatabase({ DATABASE_URL: server.url }),
    );
    expect([status, stdout]).toEqual([69, ""]);
  });
});

test("a signal ends a wait for a lock on a server that has fallen silent", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locked = await runLocked(idle);
  await using waiter = CliChild.start(
    ["run", locked.key, "--wait", "--", "echo", "run"],
    onDatabase({ DATABASE_URL: proxy.url }),
  );
  await until(async () => (await advisoryLocks()).some(({ granted }) => !granted), patient);
  proxy.freeze();
  waiter.signal("SIGTERM");
  expect(await waiter.ended).toMatchObject({ status: 143, stdout: "" });
  locked.cli.signal("SIGTERM");
  await locked.cli.ended;
});

describe("a server that falls silent while the command runs", () => {
  test("doesn't delay the end of the run, which has the command's own status", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locked = await runLocked("read line; exit 7", { env: { DATABASE_URL: proxy.url } });
    proxy.freeze();
    locked.cli.process.stdin?.end("on\n");
    expect((await locked.cli.ended).status).toBe(7);
  });

  test("is not waited for after a signal while the lock is released", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locked = await runLocked("read line; exit 7", { env: { DATABASE_URL: proxy.url } });
    proxy.freeze();
    locked.cli.process.stdin?.end("on\n");
    await until(() => !lives(locked.pid), patient);
    // Each signal ends one wait: the one for the release, and the one for the clean-up.
    const again = setInterval(() => locked.cli.signal("SIGTERM"), 100);
    expect((await locked.cli.ended).status).toBe(7);
    clearInterval(again);
  });
});

test("a stopped runner still passes each signal to the command", async () => {
  await using locked = await runLocked(idle);
  process.kill(locked.runner, "SIGSTOP");
  locked.cli.signal("SIGTERM");
  expect((await locked.cli.ended).status).toBe(143);
  expect(await holdersOf(lockId(0, locked.key))).toEqual([]);
});

// The runner is started before the arguments are checked, so it has to end with pg-locker.
test.each([
  ["an empty key", ["", "--", "true"], 64],
  ["an unknown option", ["k", "--frobnicate", "--", "true"], 64],
  ["a URL of another database", ["k", "--url", "mysql://h/d", "--", "true"], 64],
  ["--help", ["k", "--help", "--", "true"], 0],
])("a run that fails to start, or is called off, leaves no process: %s", async (_, args, expected) => {
  const { status, signal } = await cli(["run", ...args], onDatabase());
  expect([status, signal]).toEqual([expected, null]);
});
