import { describe, expect, test } from "vitest";
import { Child, type ChildExit } from "../support/child.ts";
import { advisoryLocks, databaseUrl, uniqueKey } from "../support/database.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// When a process ends whose locker has a pool of its own (`connectionString`), as seen from outside.

const clean: ChildExit = { code: 0, signal: null };

/** What `awaits.mjs` can wait for. */
const awaited = [
  "wait",
  "semaphore wait",
  "group wait",
  "stuck breaker",
  "stuck breaker, wait",
  "stuck breaker, semaphore",
  "stuck breaker, refresh",
  "withLock",
  "withPermit",
  "withTransaction",
  "loss of a withLock",
  "election",
  "leader",
  "drain",
];

function start(what: string, options: { key?: string; url?: string; nodeOptions?: string } = {}): Child {
  const { key = uniqueKey(), url = databaseUrl(), nodeOptions } = options;
  const env = { DATABASE_URL: url, ...(nodeOptions !== undefined && { NODE_OPTIONS: nodeOptions }) };
  return Child.start("exits.mjs", { args: [what, key], env });
}

/** Resolves with how the process ended, if it did within that many milliseconds. */
async function exitOf(child: Child, deadline: number): Promise<ChildExit | "alive"> {
  let timer: NodeJS.Timeout | undefined;
  const alive = new Promise<"alive">((resolve) => {
    timer = setTimeout(resolve, deadline, "alive");
  });
  return await Promise.race([child.exited, alive]).finally(() => clearTimeout(timer));
}

describe("a locker that holds nothing lets the process end, without close()", () => {
  test.each(["nothing", "idle", "released", "waited"])("%s", async (what) => {
    await using child = start(what);
    await child.message(() => true);
    expect(await exitOf(child, 10_000)).toEqual(clean);
    expect(child.stderr).toBe("");
  });
});

describe("a lock", () => {
  test("that is never released keeps the process alive", async () => {
    await using child = start("held");
    await child.message((message) => message["held"] === true);
    expect(await exitOf(child, 2_500)).toBe("alive");
    expect(await advisoryLocks()).toHaveLength(1);
  });

  test("that is waited for keeps it alive as well", async () => {
    const key = uniqueKey();
    await using holder = start("held", { key });
    await holder.message((message) => message["held"] === true);
    await using child = start("waits", { key });
    await child.message((message) => "waits" in message);
    expect(await exitOf(child, 2_500)).toBe("alive");
  });

  test("that is waited for keeps it alive until the bound, whatever the breaker does", async () => {
    await using child = start("breaker-pending");
    expect(await child.message((message) => "refused" in message)).toEqual({ refused: "wait-timeout" });
    expect(await exitOf(child, 10_000)).toEqual(clean);
  });

  test("is freed by close(), and the process ends", async () => {
    await using child = start("close-held");
    await child.message((message) => "closed" in message);
    expect(await exitOf(child, 5_000)).toEqual(clean);
    expect(await advisoryLocks()).toEqual([]);
  });
});

// What is waited for comes from a timer that doesn't keep the process alive, and nothing else does: a process that didn't wait exits with 13.
test.each(["memory", "postgres"])(
  "a call without an answer keeps the process alive: %s",
  async (where) => {
    const env = { DATABASE_URL: databaseUrl() };
    const ends = awaited.map(async (what) => {
      await using child = Child.start("awaits.mjs", { args: [where, what, uniqueKey()], env });
      return [what, await exitOf(child, 30_000), child.messages] as const;
    });
    const asExpected = awaited.map((what) => [what, clean, [{ answered: what }]]);
    expect(await Promise.all(ends)).toEqual(asExpected);
  },
  60_000,
);

test("close() on a silently dead link resolves, and the process ends, within seconds", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using child = start("close-silent", { url: proxy.url });
  await child.message((message) => message["held"] === true);
  proxy.freeze();
  const asked = performance.now();
  child.send({ close: true });
  await child.message((message) => "closed" in message, { deadline: 15_000 });
  // The cancellation of the abandoned statement may still be under way by then, for at most 5 s.
  expect(await exitOf(child, 8_000)).toEqual(clean);
  expect(performance.now() - asked).toBeLessThan(14_000);
  proxy.cut();
});

test("a handle that is garbage collected is logged once; kept or released ones aren't", async () => {
  await using child = start("lost", { nodeOptions: "--expose-gc" });
  await child.message((message) => "closed" in message);
  expect(await exitOf(child, 5_000)).toEqual(clean);
  const warnings = child.messages.filter((message) =>
    String(message["warned"]).includes("was garbage-collected without a release"),
  );
  expect(warnings).toHaveLength(1);
  expect(String(warnings[0]?.["of"])).not.toMatch(/:kept$|:released$/);
  await until(async () => (await advisoryLocks()).length === 0);
});
