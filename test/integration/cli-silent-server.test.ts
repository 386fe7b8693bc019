import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { describe, expect, test, vi } from "vitest";
import { CliChild, cli } from "../support/cli.ts";
import { databaseUrl } from "../support/database.ts";
import { until } from "../support/until.ts";

// Each test starts several processes, and some start a server.
vi.setConfig({ testTimeout: 60_000 });

const commands = [["ls"], ["who", "k"], ["break", "k"], ["doctor"], ["run", "k", "--", "echo", "ran"]];

/** A server that accepts connections and never says a word, such as a stopped postmaster or another program's port. */
async function silence(): Promise<AsyncDisposable & { url: string; readonly connections: number }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `postgres://app:hunter2@127.0.0.1:${(server.address() as AddressInfo).port}/shop`,
    get connections() {
      return sockets.size;
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

describe("if a server accepts and then says nothing,", () => {
  test("every command says so, names the database, and ends", async () => {
    await using server = await silence();
    const env = { DATABASE_URL: server.url };
    // A command that waits may go on for as long as it was told to.
    const waits = cli(["run", "k", "--wait=7s", "--", "echo", "ran"], { env });
    const ended = await Promise.all(commands.map((args) => cli(args, { env })));
    const waited = await waits;
    expect([69, 124]).toContain(waited.status);
    expect(waited.stdout).toBe("");
    for (const [at, { status, stdout, stderr }] of ended.entries()) {
      expect([at, status]).toEqual([at, commands[at]?.[0] === "doctor" ? 1 : 69]);
      expect(stdout + stderr).toMatch(/no(t)? answer within \d+/);
      expect(stdout + stderr).toMatch(/ shop on 127\.0\.0\.1:\d+, as app \(DATABASE_URL\)/);
      expect(stdout + stderr).not.toMatch(/hunter2|ran\n/);
    }
  }, 30_000);

  test.each(["SIGTERM", "SIGINT"] as const)(
    "%s ends every command, whatever it waits for",
    async (signal) => {
      await using server = await silence();
      // Two hosts, each of which is tried by a connection of its own.
      const twice = server.url.replace(/@([^/]+)/, "@$1,$1");
      const urls = [server.url, `${server.url}?sslmode=require`, twice];
      const children = urls.flatMap((url) =>
        [...commands, ["run", "k", "--wait", "--", "echo", "ran"]]
          .slice(url === server.url ? 0 : -2)
          .map((args) => CliChild.start(args, { env: { DATABASE_URL: url } })),
      );
      try {
        await until(() => server.connections >= children.length, { deadline: 25_000 });
        const from = Date.now();
        for (const child of children) child.signal(signal);
        const ended = await Promise.all(children.map((child) => child.ended));
        expect(Date.now() - from).toBeLessThan(12_000);
        const number = signal === "SIGTERM" ? 143 : 130;
        for (const { status, signal: by, stdout } of ended) {
          // A command whose wait was over when the signal came may already have begun to say so.
          expect([number, 69, 1]).toContain(by === signal ? number : status);
          expect(stdout).not.toContain("ran\n");
        }
      } finally {
        for (const child of children) await child[Symbol.asyncDispose]();
      }
    },
    45_000,
  );

  test("connect_timeout shortens the wait", async () => {
    await using server = await silence();
    const from = Date.now();
    const { status, stderr } = await cli(["ls"], {
      env: { DATABASE_URL: server.url, PGCONNECT_TIMEOUT: "1" },
    });
    expect([status, stderr]).toEqual([69, expect.stringContaining("Looking at locks failed")]);
    expect(Date.now() - from).toBeLessThan(4_900);
  });
});

test("a longer connect_timeout has no effect", async () => {
  await using server = await silence();
  const from = Date.now();
  const { status } = await cli(["ls"], { env: { DATABASE_URL: server.url, PGCONNECT_TIMEOUT: "60" } });
  expect(status).toBe(69);
  expect(Date.now() - from).toBeLessThan(20_000);
}, 30_000);

test("a name that can't be resolved is reported, and the process ends", async () => {
  const { pathname } = new URL(databaseUrl());
  const env = { DATABASE_URL: `postgres://app@no-such-host.invalid${pathname}` };
  const { status, stderr } = await cli(["ls"], { env });
  expect([status, stderr]).toEqual([69, expect.stringMatching(/on no-such-host\.invalid:5432, as app/)]);
}, 30_000);

test("an answer on which the driver throws is told in a line, and with 70", async () => {
  // A request for a way to authenticate that there is not.
  const answer = Buffer.from("R\0\0\0\u0008HTTP", "latin1");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(answer));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    const { port } = server.address() as AddressInfo;
    const env = { DATABASE_URL: `postgres://app@127.0.0.1:${port}/shop` };
    for (const args of commands) {
      const { status, stdout, stderr } = await cli(args, { env });
      expect([args[0], status, stdout]).toEqual([args[0], 70, ""]);
      expect(stderr).toMatch(/^pg-locker: Unexpected error: [^\n]*authentication[^\n]*\n$/);
    }
  } finally {
    server.close();
  }
});
