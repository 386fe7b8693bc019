import { Socket } from "node:net";
import { expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, write, written } from "../support/written-table.ts";

emptyWrittenTable();

/** Milliseconds: longer than a statement's deadline. */
const stall = 5_500;

test("a commit that took effect is reported, whatever stood still after it was sent", async () => {
  await using child = Child.start("commit-and-stop.mjs", {
    args: [uniqueKey()],
    env: { DATABASE_URL: databaseUrl() },
  });
  await child.message((message) => "sent" in message);
  await until(async () => (await written()).length === 1);
  await using locker = createLocker();
  const running = locker.withTransaction(uniqueKey(), async (client) => {
    await client.query(write, ["by this process"]);
    const { write: send } = Socket.prototype;
    Socket.prototype.write = function (this: Socket, ...data: [string]) {
      const sent = send.apply(this, data);
      if (!String(data[0]).includes("commit")) return sent;
      Socket.prototype.write = send;
      // The answer is in the socket when the loop continues, and the deadline has passed.
      setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, stall));
      return sent;
    } as Socket["write"];
    return 42;
  });
  expect(await running).toBe(42);
  // The process has stood still for longer than that.
  child.signal("SIGCONT");
  expect(await child.message((message) => "outcome" in message)).toEqual({ outcome: "committed" });
  expect(await written()).toEqual(["by another process", "by this process"]);
}, 30_000);
