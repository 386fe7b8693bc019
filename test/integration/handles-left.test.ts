import { expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { databaseUrl, uniqueKey } from "../support/database.ts";

// A lock that has been given back is forgotten: its handle, its signal, and what its listeners refer to.

test.each([
  "in memory",
  "in memory, with a logger",
  "on a shared session",
  "on a shared session, with a logger",
  "on a session of its own",
  "after a wait",
  "on a caller's client",
  "as a permit",
  "as a group",
  "kept for a minimum time",
])("nothing of a lock stays in memory after its release: %s", async (way) => {
  const env = { DATABASE_URL: databaseUrl(), NODE_OPTIONS: "--expose-gc" };
  await using child = Child.start("handles-left.mjs", { args: [way, uniqueKey()], env });
  const { left } = await child.message((message) => "left" in message, { deadline: 30_000 });
  // The last one or two may still be in a variable of the engine's.
  expect(left).toBeLessThanOrEqual(3);
});
