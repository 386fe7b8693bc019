import { once } from "node:events";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserState } from "../support/own-server.ts";

// What a command finds in the folder of the user's own PostgreSQL may have been put there by anybody: another program, another release.

/** A program that listens where the keeper would, and answers each connection in this way. */
async function stranger(state: UserState, answer: string): Promise<AsyncDisposable> {
  await mkdir(state.folder, { recursive: true });
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      if (answer !== "no end") return void socket.end(answer);
      const flood = (): void => {
        while (socket.write("x".repeat(65_536)));
        socket.once("drain", flood);
      };
      flood();
    });
  });
  server.listen(join(state.folder, "keeper"));
  await once(server, "listening");
  return {
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, "close");
    },
  };
}

describe("a program that is not the keeper, on the keeper's socket", () => {
  test.each([
    ["a web server", "HTTP/1.1 400 Bad Request\r\n\r\n"],
    ["an empty line", "\n"],
    ["no object", "null\n"],
    ["an unknown answer", '{"is":"ready"}\n'],
    ["a failure without a sentence", '{"is":"failed","sentence":""}\n'],
    ["an answer to another request", '{"is":"stopped"}\n'],
    ["a status without its fields", '{"is":"status","status":"x"}\n'],
    ["a line that never ends", "no end"],
    ["nothing", ""],
  ])("is named in a sentence: %s", async (_, answer) => {
    await using state = await UserState.create();
    await using _stranger = await stranger(state, answer);
    const { status, stdout, stderr } = await state.cli(["ls"]);
    expect([status, stdout]).toEqual([69, ""]);
    expect(stderr).toBe(
      `pg-locker: What listens on the socket ${join(state.folder, "keeper")} does not answer as the keeper of your own ` +
        "PostgreSQL does in this release of pg-locker: end it, or choose another folder with XDG_STATE_HOME, or a " +
        "database with DATABASE_URL\n",
    );
  });

  test("is named by the command server, too", async () => {
    await using state = await UserState.create();
    await using _stranger = await stranger(state, '{"is":"status","status":{"state":"running"}}\n');
    for (const action of ["status", "stop"]) {
      const { status, stderr } = await state.cli(["server", action]);
      expect([action, status, stderr]).toEqual([
        action,
        69,
        expect.stringMatching(/^pg-locker: What listens on/),
      ]);
    }
  });
});

test("a file in the place of the keeper's link is named", async () => {
  await using state = await UserState.create();
  const link = join(state.folder, "keeper");
  await mkdir(state.folder, { recursive: true });
  await writeFile(link, "");
  const { status, stderr } = await state.cli(["ls"]);
  await rm(link);
  expect([status, stderr]).toEqual([
    69,
    expect.stringContaining(`${link} should be a link to the socket of a keeper`),
  ]);
});

test.each([
  ["missing", undefined],
  ["cut off", "x"],
])("damaged data of another major version are named: pg_control is %s", async (_, control) => {
  await using state = await UserState.create();
  const data = join(state.folder, "99", "data");
  await mkdir(join(data, "global"), { recursive: true });
  await writeFile(join(data, "PG_VERSION"), "99\n");
  const file = join(data, "global", "pg_control");
  if (control !== undefined) await writeFile(file, control);
  const { status, stderr } = await state.cli(["ls"]);
  expect([status, stderr]).toEqual([69, expect.stringContaining(`pg-locker: ${file} is missing or damaged`)]);
});
