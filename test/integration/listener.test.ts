import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test } from "vitest";
import { statement } from "../../src/postgres/driver.ts";
import { Listener } from "../../src/postgres/release-listener.ts";
import { markWaiting, tryLock, unlock } from "../../src/postgres/sql.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  onServer,
  type Session,
  uniqueId,
} from "../support/database.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// The session that hears of releases, without anybody who polls behind it: what it misses here would be missed.

function listenerOf(config: { connectionString?: string } = {}) {
  const heard: bigint[] = [];
  let gone = 0;
  const warnings: string[] = [];
  const listener = new Listener({
    pool: createPool(config),
    name: "listener",
    trustPooler: false,
    log: { debug() {}, info() {}, error() {}, warn: (_, text) => void warnings.push(text) },
    onRelease: (id) => void heard.push(id),
    onGone: () => {
      gone += 1;
    },
  });
  const closing = { [Symbol.asyncDispose]: () => listener.close() };
  return { listener, heard, warnings, goneTimes: () => gone, ...closing };
}

const kind = { mode: "exclusive", enforced: false, fenced: false } as const;

/** The statements of the library, on a session of the test's own. */
function holderOn(session: Session) {
  const ask = async ({ text }: { text: string }, values: unknown[]) => {
    const { rows } = await session.query<[string]>({ ...statement(text), text, values, rowMode: "array" });
    return JSON.parse(String(rows[0]?.[0])) as unknown;
  };
  return {
    tries: async (id: bigint) =>
      ((await ask(tryLock(kind), [id.toString(), null, "holder", "0"])) as { granted: boolean }).granted,
    /** Whether anybody was told. */
    unlocks: async (id: bigint) =>
      ((await ask(unlock(kind), [id.toString(), "0", "0", "read committed", ""])) as [boolean, boolean])[1],
  };
}

const marked = async (id: bigint): Promise<boolean> => (await markersOf(id)).length > 0;
const markersOf = async (id: bigint) =>
  (await advisoryLocks()).filter((lock) => lock.id === markerOf(id) && lock.mode === "ShareLock");
const markerOf = (id: bigint): bigint => BigInt.asIntN(64, id ^ 8099492398597630783n);

test("a watch wakes once when it begins, and then at each release", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const holder = holderOn(await connect());
  const id = uniqueId();
  expect(await holder.tries(id)).toBe(true);
  listener.watch(id);
  await until(() => heard.length === 1);
  expect(await holder.unlocks(id)).toBe(true);
  await until(() => heard.length === 2);
  expect(heard).toEqual([id, id]);
});

// A waiter marks, then tries; a releaser unlocks and probes in one statement. The three orders that these can have:
test("no wake-up is lost: released before the mark, the try after it succeeds", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const [holder, waiter] = [holderOn(await connect()), holderOn(await connect())];
  const id = uniqueId();
  await holder.tries(id);
  expect(await waiter.tries(id)).toBe(false);
  expect(await holder.unlocks(id)).toBe(false);
  listener.watch(id);
  await until(() => heard.length === 1);
  expect(await waiter.tries(id)).toBe(true);
});

test("no wake-up is lost: released between the mark and the try, the try succeeds, and is told as well", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const [holder, waiter] = [holderOn(await connect()), holderOn(await connect())];
  const id = uniqueId();
  await holder.tries(id);
  listener.watch(id);
  await until(() => heard.length === 1);
  expect(await holder.unlocks(id)).toBe(true);
  expect(await waiter.tries(id)).toBe(true);
  await until(() => heard.length === 2);
});

test("no wake-up is lost: released after the try, it is told", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const [holder, waiter] = [holderOn(await connect()), holderOn(await connect())];
  const id = uniqueId();
  await holder.tries(id);
  listener.watch(id);
  await until(() => heard.length === 1);
  expect(await waiter.tries(id)).toBe(false);
  expect(await holder.unlocks(id)).toBe(true);
  await until(() => heard.length === 2);
  expect(await waiter.tries(id)).toBe(true);
});

test("a mark that meets the probe of a release in mid-statement is tried again", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const probing = await connect();
  const id = uniqueId();
  await probing.query("begin");
  await probing.query("select pg_try_advisory_xact_lock($1)", [markerOf(id).toString()]);
  listener.watch(id);
  // It gives the probe some milliseconds, wakes the waiter all the same, and marks at the waiter's next look.
  await until(() => heard.length === 1);
  expect(await markersOf(id)).toEqual([]);
  await probing.query("commit");
  listener.watch(id);
  await until(() => marked(id));
});

test("two that release a shared lock at once tell somebody who waits, whoever probes first", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const id = uniqueId();
  listener.watch(id);
  await until(() => heard.length === 1);
  const holders = [holderOn(await connect()), holderOn(await connect())];
  for (let round = 1; round <= 50; round += 1) {
    const [first, second] = holders as [ReturnType<typeof holderOn>, ReturnType<typeof holderOn>];
    expect(await first.tries(id)).toBe(true);
    const other = BigInt.asIntN(64, id + BigInt(round));
    expect(await second.tries(other)).toBe(true);
    const [told] = await Promise.all([first.unlocks(id), second.unlocks(other)]);
    expect(told).toBe(true);
  }
  await until(() => heard.length === 51);
});

test("an unwatched lock has no marker, and is told to nobody", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const holder = holderOn(await connect());
  const id = uniqueId();
  listener.watch(id);
  await until(() => marked(id));
  listener.unwatch(id);
  await until(async () => !(await marked(id)));
  await holder.tries(id);
  expect(await holder.unlocks(id)).toBe(false);
  expect(heard).toEqual([id]);
});

test("a watch given up and asked for again in one step keeps its marker, one only", async () => {
  await using setup = listenerOf();
  const { listener } = setup;
  const id = uniqueId();
  listener.watch(id);
  await until(() => marked(id));
  for (let i = 0; i < 100; i += 1) {
    listener.unwatch(id);
    listener.watch(id);
    if (i % 10 === 0) await delay(1);
  }
  await until(async () => (await markersOf(id)).length === 1);
  listener.unwatch(id);
  await until(async () => (await advisoryLocks()).length === 0);
});

test("a watch that is given up before its marker is there leaves none", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using setup = listenerOf({ connectionString: proxy.url });
  const { listener, heard } = setup;
  const id = uniqueId();
  proxy.freeze();
  listener.watch(id);
  await until(() => proxy.size === 1);
  listener.unwatch(id);
  await delay(50); // past the moment at which markers that nobody wants are looked for
  proxy.thaw();
  const other = uniqueId();
  listener.watch(other);
  await until(() => heard.includes(other));
  await until(async () => !(await marked(id)));
});

test("a watch that is given up while its marker is set leaves none", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using setup = listenerOf({ connectionString: proxy.url });
  const { listener, heard } = setup;
  const [first, id] = [uniqueId(), uniqueId()];
  listener.watch(first);
  await until(() => heard.length === 1);
  proxy.freeze({ direction: "toClient" });
  listener.watch(id);
  await until(() => marked(id));
  listener.unwatch(id);
  await delay(50);
  proxy.thaw();
  await until(async () => !(await marked(id)));
  expect(await marked(first)).toBe(true);
});

test("a thousand watches are marked, by one session", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const ids = Array.from({ length: 1_000 }, uniqueId);
  for (const id of ids) listener.watch(id);
  await until(() => heard.length === 1_000);
  const pids = new Set((await advisoryLocks()).map(({ pid }) => pid));
  expect(pids.size).toBe(1);
});

test("when its session is ended, that is told, and the next watch makes another", async () => {
  await using setup = listenerOf();
  const { listener, heard, goneTimes, warnings } = setup;
  const id = uniqueId();
  listener.watch(id);
  await until(() => heard.length === 1);
  for (const { pid } of await markersOf(id)) await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => goneTimes() === 1);
  expect(warnings).toHaveLength(1);
  await until(async () => {
    listener.watch(id);
    return marked(id);
  });
  await until(() => heard.length === 2);
  const holder = holderOn(await connect());
  await holder.tries(id);
  expect(await holder.unlocks(id)).toBe(true);
  await until(() => heard.length === 3);
});

test("when the server can't be reached, that is said once, and it listens as soon as it can", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await proxy.refuse();
  await using setup = listenerOf({ connectionString: proxy.url });
  const { listener, warnings } = setup;
  const id = uniqueId();
  listener.watch(id);
  await until(() => warnings.length === 1);
  await proxy.accept();
  await until(async () => {
    listener.watch(id);
    return marked(id);
  });
  expect(warnings).toHaveLength(1);
});

test("a close does not wait for a server that does not answer", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  proxy.freeze();
  const { listener } = listenerOf({ connectionString: proxy.url });
  listener.watch(uniqueId());
  await until(() => proxy.size === 1);
  // Before the deadline that connecting has of its own, 5 s.
  const overdue = delay(4_000, "overdue", { ref: false });
  expect(await Promise.race([listener.close(), overdue])).toBeUndefined();
  listener.watch(uniqueId());
  expect(proxy.size).toBeLessThanOrEqual(1);
});

test("a session that hears of releases takes what anybody may notify", async () => {
  await using setup = listenerOf();
  const { listener, heard } = setup;
  const id = uniqueId();
  listener.watch(id);
  await until(() => heard.length === 1);
  const anybody = await connect();
  for (const payload of ["", "no number", "1".repeat(40), "7"]) {
    await anybody.query("select pg_notify('pg_locker', $1)", [payload]);
  }
  await until(() => heard.includes(7n));
  expect(heard).toEqual([id, 7n]);
});

test("a role's time-outs do not end it", async () => {
  const role = `timid_${Math.random().toString(36).slice(2)}`;
  await onServer(`create role ${role} login superuser`);
  await onServer(`alter role ${role} set idle_session_timeout = '50ms'`);
  onTestFinished(async () => void (await onServer(`drop role ${role}`)));
  const url = new URL(databaseUrl());
  url.username = role;
  await using setup = listenerOf({ connectionString: url.href });
  const { listener, heard, goneTimes } = setup;
  listener.watch(uniqueId());
  await until(() => heard.length === 1);
  // A session with that time-out, begun later, has gone.
  const witness = await connect({ connectionString: url.href });
  await new Promise((resolve) => witness.once("end", resolve));
  expect(goneTimes()).toBe(0);
});

test("the marker's statement is prepared once, under a name of its own", () => {
  expect(markWaiting.name).toBeDefined();
});
