import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import {
  cancelRequest,
  WaitingServer,
  waitAndTell,
  waitInBlock,
  waitOnce,
  waitUntilGranted,
} from "../support/bounded-wait.ts";
import { type Session, uniqueId, uniqueKey } from "../support/database.ts";

// The facts about PostgreSQL that waiting in the server relies on, each proven on the real server with plain clients. The facts about the
// queue, deadlocks and the settings of a role are in postgres-behavior-queue.test.ts.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start();
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(async () => {
  expect((await server.log.entries()).filter(({ severity }) => severity === "PANIC")).toEqual([]);
});

/** A session that holds the lock, and one that will wait for it. */
async function pair(id: bigint, bound = 60_000): Promise<{ holder: Session; waiter: Session }> {
  const [holder, waiter] = [await server.connect(), await server.connect({ bound })];
  await holder.query("select pg_advisory_lock($1)", [id.toString()]);
  return { holder, waiter };
}

const unlock = (session: Session, id: bigint) =>
  session.query("select pg_advisory_unlock($1)", [id.toString()]);

const cancelBackend = async ({ processID }: Session): Promise<void> => {
  await server.rows("select pg_cancel_backend($1)", [processID]);
};

const ways = [
  ["pg_cancel_backend", cancelBackend],
  ["a CancelRequest", cancelRequest],
] as const;

// https://www.postgresql.org/docs/current/plpgsql-control-structures.html#PLPGSQL-ERROR-TRAPPING
describe("a bounded wait in a block that catches its end", () => {
  test("writes nothing to the server's log when its bound passes, and raises nothing", async () => {
    const id = uniqueId();
    const { waiter } = await pair(id, 50);
    expect(await waitOnce(waiter, id)).toBe(false);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
    expect(await server.pidsOf(id, "waiting")).toEqual([]);
  });

  test.each(ways)("writes nothing to the server's log when it is cancelled by %s", async (_, cancel) => {
    const id = uniqueId();
    const { waiter } = await pair(id);
    const waiting = waitOnce(waiter, id);
    await server.waiting(id, waiter);
    await cancel(waiter);
    expect(await waiting).toBe(false);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
  });

  test("is granted the lock when the holder gives it back, or its session ends", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    const third = await server.connect({ bound: 60_000 });
    const [second, last] = [waitOnce(waiter, id), server.waiting(id, waiter).then(() => waitOnce(third, id))];
    await server.waiting(id, waiter, third);
    await unlock(holder, id);
    expect(await second).toBe(true);
    await server.rows("select pg_terminate_backend($1)", [waiter.processID]);
    expect(await last).toBe(true);
  });
});

describe("without the block", () => {
  test("a bound that passes is an error of the client and of the log, once", async () => {
    const id = uniqueId();
    const { waiter } = await pair(id, 50);
    const refused = waiter.query("select pg_advisory_lock($1)", [id.toString()]);
    await expect(refused).rejects.toMatchObject({ code: "55P03" });
    expect(await server.log.complaints(waiter.processID)).toEqual([
      { pid: waiter.processID, severity: "ERROR", text: "canceling statement due to lock timeout" },
    ]);
  });

  test("a cancellation is an error of the client and of the log, once", async () => {
    const id = uniqueId();
    const { waiter } = await pair(id);
    const refused = expect(
      waiter.query("select pg_advisory_lock($1)", [id.toString()]),
    ).rejects.toMatchObject({ code: "57014" });
    await server.waiting(id, waiter);
    await cancelBackend(waiter);
    await refused;
    expect(await server.log.complaints(waiter.processID)).toEqual([
      { pid: waiter.processID, severity: "ERROR", text: "canceling statement due to user request" },
    ]);
  });
});

describe("the rollback of the block", () => {
  test("keeps the session's lock taken in it, and reverts a setting", async () => {
    const id = uniqueId();
    const session = await server.connect();
    await session.query(`do $$ begin
      perform pg_advisory_lock(${id});
      perform set_config('pg_locker.got', 'yes', false);
      raise sqlstate '55P03';
    exception when lock_not_available then null; end $$`);
    expect(await server.pidsOf(id, "granted")).toEqual([session.processID]);
    const { rows } = await session.query("select current_setting('pg_locker.got', true) as got");
    expect(rows).not.toEqual([{ got: "yes" }]);
  });

  // That moment is made long: the backend is stopped, and finds both when it continues.
  test.each([
    ["its cancel", 60_000, cancelBackend],
    [
      "its bound",
      1_000,
      async () => void (await server.rows("select pg_sleep(1.1)")), // The alarm of the stopped process goes off.
    ],
  ])("keeps the lock that was granted in the very moment of %s", async (_, bound, end) => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id, bound);
    const waiting = waiter.query(waitInBlock(id));
    await server.waiting(id, waiter);
    await server.whileStopped(waiter, async () => {
      await unlock(holder, id);
      expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
      await end(waiter);
    });
    await waiting;
    expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
    // It has the lock once, so it was the block's.
    expect((await unlock(waiter, id)).rows).toEqual([{ pg_advisory_unlock: true }]);
    expect(await server.pidsOf(id, "granted")).toEqual([]);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
  });

  test("without the block, a cancel at the grant is an error, and the lock is held", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    const refused = expect(
      waiter.query("select pg_advisory_lock($1)", [id.toString()]),
    ).rejects.toMatchObject({ code: "57014" });
    await server.waiting(id, waiter);
    await server.whileStopped(waiter, async () => {
      await unlock(holder, id);
      await cancelBackend(waiter);
    });
    await refused;
    expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
  });
});

describe("a try by the session that waited, in the same message,", () => {
  test("is true when the block was granted the lock, which it then has twice", async () => {
    const id = uniqueId();
    const session = await server.connect({ bound: 60_000 });
    expect(await waitOnce(session, id)).toBe(true);
    await unlock(session, id);
    expect(await server.pidsOf(id, "granted")).toEqual([session.processID]);
    await unlock(session, id);
    expect(await server.pidsOf(id, "granted")).toEqual([]);
  });

  test("is true when the lock came free after the bound", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id, 50);
    // Between the two it waits for another lock, until this one is free.
    const gate = uniqueId();
    await holder.query("select pg_advisory_lock($1)", [gate.toString()]);
    const waiting = waiter.query(
      `${waitInBlock(id)}; set lock_timeout = 0; select pg_advisory_lock(${gate}); select pg_try_advisory_lock(${id}) as got`,
    );
    await server.waiting(gate, waiter);
    for (const lock of [id, gate]) await unlock(holder, lock);
    expect((await waiting) as unknown).toMatchObject({ 3: { rows: [{ got: true }] } });
    expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
  });

  test("is true when the lock was granted in the very moment of the cancel", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    const waiting = waitOnce(waiter, id);
    await server.waiting(id, waiter);
    await server.whileStopped(waiter, async () => {
      await unlock(holder, id);
      await cancelBackend(waiter);
    });
    expect(await waiting).toBe(true);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
  });

  test("tells whether the session has the lock, whenever the cancel comes", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    const answers: unknown[] = [];
    for (let i = 0; i < 100; i += 1) {
      const waiting = waitOnce(waiter, id).catch((error: { code?: string }) => error.code);
      await server.waiting(id, waiter);
      const unlocked =
        i % 3 === 0 ? cancelRequest(waiter).then(() => unlock(holder, id)) : unlock(holder, id);
      await Promise.all([unlocked, i % 3 === 0 ? undefined : cancelRequest(waiter)]);
      const answer = await waiting;
      answers.push(answer);
      // A cancel that arrives after the wait fails the statement that follows: then nothing is known, and a session lock stays.
      if (typeof answer === "boolean")
        expect(await server.pidsOf(id, "granted")).toEqual(answer ? [waiter.processID] : []);
      else expect(answer).toBe("57014");
      await waiter.query("select pg_advisory_unlock_all()");
      expect(await server.pidsOf(id, "granted")).toEqual([]);
      await holder.query("select pg_advisory_lock($1)", [id.toString()]);
    }
    expect(answers).toContain(true);
  }, 60_000);
});

describe("pg_advisory_unlock_all", () => {
  test("frees a lock that is held more than once, and of either mode", async () => {
    const id = uniqueId();
    const session = await server.connect({ bound: 60_000 });
    for (const mode of ["exclusive", "exclusive", "shared"] as const) await waitOnce(session, id, mode);
    await session.query("select pg_advisory_unlock_all()");
    expect(await server.pidsOf(id, "granted")).toEqual([]);
  });

  test("logs nothing if nothing is held, while pg_advisory_unlock logs a warning", async () => {
    const session = await server.connect();
    const notices: unknown[] = [];
    session.on("notice", ({ message }) => notices.push(message));
    await session.query("select pg_advisory_unlock_all()");
    expect(notices).toEqual([]);
    expect(await server.log.entries(session.processID)).toEqual([]);
    await unlock(session, uniqueId());
    expect(notices).toEqual(["you don't own a lock of type ExclusiveLock"]);
    expect(await server.log.complaints(session.processID)).toEqual([
      { pid: session.processID, severity: "WARNING", text: "you don't own a lock of type ExclusiveLock" },
    ]);
  });
});

// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
describe("a CancelRequest", () => {
  test.each(ways)("(or %s) ends a wait at once", async (_, cancel) => {
    const id = uniqueId();
    const { waiter } = await pair(id);
    const waiting = waitOnce(waiter, id);
    await server.waiting(id, waiter);
    const start = performance.now();
    await cancel(waiter);
    await waiting;
    expect(performance.now() - start).toBeLessThan(1_000);
  });

  test("needs no free connection of the server", async () => {
    const id = uniqueId();
    const { waiter } = await pair(id);
    const waiting = waitOnce(waiter, id);
    await server.waiting(id, waiter);
    // As many connections as the server has.
    const others: Session[] = [];
    for (let refused: unknown; refused === undefined; ) {
      await Promise.all(
        Array.from({ length: 10 }, () =>
          server.connect().then(
            (session) => others.push(session),
            (error: unknown) => {
              refused = error;
            },
          ),
        ),
      );
      if (refused !== undefined) expect(refused).toMatchObject({ code: "53300" });
    }
    await expect(server.connect()).rejects.toMatchObject({ code: "53300" });
    await cancelRequest(waiter);
    expect(await waiting).toBe(false);
    await Promise.all(others.map((other) => other.end()));
  });

  test("that comes late does nothing to an idle session or its next statement", async () => {
    const session = await server.connect();
    for (let i = 0; i < 50; i += 1) {
      await session.query("select 1");
      await cancelRequest(session);
      await session.query("select pg_sleep(0.002)");
    }
    expect(await server.log.entries(session.processID)).toEqual([]);
  });

  test("with another key does nothing", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    const waiting = waitOnce(waiter, id);
    await server.waiting(id, waiter);
    const { host, port, processID, secretKey } = waiter as Session & { secretKey: number };
    await cancelRequest({ host, port, processID, secretKey: secretKey ^ 1 } as unknown as Session);
    expect(await server.pidsOf(id, "waiting")).toEqual([waiter.processID]);
    await unlock(holder, id);
    expect(await waiting).toBe(true);
  });
});

describe("a wait in a transaction, for the transaction's own lock,", () => {
  const call = "pg_catalog.pg_advisory_xact_lock";
  const begin = "begin; set local lock_timeout = '60s'";

  test("is granted, and kept after the block until the end of the transaction", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    await waiter.query(begin);
    const waiting = waiter.query(waitInBlock(id, call));
    await server.waiting(id, waiter);
    await unlock(holder, id);
    await waiting;
    expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
    await waiter.query("commit");
    expect(await server.pidsOf(id, "granted")).toEqual([]);
  });

  test("leaves the transaction as it was when the bound passes, and the setting local", async () => {
    const id = uniqueId();
    const { waiter } = await pair(id, 0);
    await waiter.query("begin; set local lock_timeout = '50ms'");
    await waiter.query(waitInBlock(id, call));
    expect((await waiter.query("select pg_try_advisory_xact_lock($1) as got", [id.toString()])).rows).toEqual(
      [{ got: false }],
    );
    expect((await waiter.query("commit")).command).toBe("COMMIT");
    expect((await waiter.query("show lock_timeout")).rows).toEqual([{ lock_timeout: "0" }]);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
  });

  test("that is cancelled at its grant frees the lock, and the transaction goes on", async () => {
    const id = uniqueId();
    const { holder, waiter } = await pair(id);
    await waiter.query(begin);
    const waiting = waiter.query(waitInBlock(id, call));
    await server.waiting(id, waiter);
    await server.whileStopped(waiter, async () => {
      await unlock(holder, id);
      expect(await server.pidsOf(id, "granted")).toEqual([waiter.processID]);
      await cancelBackend(waiter);
    });
    await waiting;
    expect(await server.pidsOf(id, "granted")).toEqual([]);
    expect((await waiter.query("commit")).command).toBe("COMMIT");
  });
});

// Each database has its own plpgsql, and its owner may take it away.
test("without a right to plpgsql the block is 42501, and a plain statement works", async () => {
  const [database, role] = ["a", "b"].map((prefix) => uniqueKey(prefix).replace(":", "_"));
  await server.rows(`create database ${database}`);
  await server.rows(`create role ${role} login`);
  const url = new URL(server.url);
  url.pathname = `/${database}`;
  const owner = await server.connect({ connectionString: url.href });
  await owner.query("revoke usage on language plpgsql from public");
  url.username = role as string;
  const session = await server.connect({ connectionString: url.href, bound: 50 });
  const id = uniqueId();
  await expect(session.query(waitAndTell(id))).rejects.toMatchObject({ code: "42501" });
  expect(await server.pidsOf(id, "granted")).toEqual([]);
  await session.query("select pg_advisory_lock($1)", [id.toString()]);
  await owner.query("set lock_timeout = 50");
  const refused = owner.query("select pg_advisory_lock($1)", [id.toString()]);
  await expect(refused).rejects.toMatchObject({ code: "55P03" });
  await waitUntilGranted(owner, uniqueId());
  for (const client of [owner, session]) await client.end();
  await server.rows(`drop database ${database} with (force)`);
  await server.rows(`drop role ${role}`);
});
