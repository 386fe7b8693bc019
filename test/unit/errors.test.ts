import { describe, expect, test } from "vitest";
import * as library from "../../src/index.ts";
import {
  CircuitOpenError,
  DatabaseError,
  EmptyKeyError,
  InvalidConfigError,
  InvalidKeyError,
  InvalidTtlError,
  LockExpiredError,
  LockerClosedError,
  LockerError,
  LockLostError,
  LockNotAcquiredError,
  LockNotHeldError,
  LocksNotKeptError,
  LockTableFullError,
  PoolerDetectedError,
  ServerTooOldError,
  StandbyError,
} from "../../src/index.ts";

const cause = new Error("boom");
const key = "invoice:42";

const all: ReadonlyArray<
  readonly [LockerError, name: string, code: string, sentence: string, cause?: Error]
> = [
  [
    new LockNotAcquiredError({ key, reason: "held" }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: it is held elsewhere',
  ],
  [
    new LockNotAcquiredError({ key, reason: "held", ownHold: { by: "withLock", canShare: true } }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: the `withLock` around this call holds it, and a lock is not re-entrant, unless `reentrant: true` says so',
  ],
  [
    new LockNotAcquiredError({ key, reason: "held", ownHold: { by: "withLocks", isShared: true } }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: the `withLocks` around this call holds it shared, and a shared lock does not become an exclusive one',
  ],
  [
    new LockNotAcquiredError({
      key,
      reason: "wait-timeout",
      waited: 50,
      ownHold: { by: "tryWithLock", canShare: true },
    }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: still held after 50 ms: the `tryWithLock` around this call holds it, and a lock is not re-entrant, unless `reentrant: true` says so',
  ],
  [
    new LockNotAcquiredError({ key, reason: "wait-timeout", waited: 10_000 }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: still held elsewhere after 10000 ms',
  ],
  [
    new LockNotAcquiredError({ key, reason: "pool-saturated", waited: 5_000 }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: every connection of the pool is checked out, and none came back within 5000 ms',
  ],
  [
    new LockNotAcquiredError({ key, reason: "connection-timeout", waited: 50, cause }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: the server did not answer within 50 ms',
    cause,
  ],
  [
    new LockNotAcquiredError({ key, reason: "id-collision", otherKey: "b" }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: its id is also that of "b", which this locker holds; rename one of the two keys',
  ],
  [
    new LockNotAcquiredError({ key, reason: "recovering", graceLeft: 5_800 }),
    "LockNotAcquiredError",
    "LOCK_NOT_ACQUIRED",
    'Lock "invoice:42" not acquired: the server\'s lock table is new since a restart, a crash or a failover, and `recoveryGrace` lets nobody acquire a lock for another 5.8s',
  ],
  [
    new LockNotHeldError({ key, reason: "released" }),
    "LockNotHeldError",
    "LOCK_NOT_HELD",
    'Lock "invoice:42" is not held: it has been released',
  ],
  [
    new LockNotHeldError({ key, reason: "expired" }),
    "LockNotHeldError",
    "LOCK_NOT_HELD",
    'Lock "invoice:42" is not held: its TTL passed without a refresh',
  ],
  [
    new LockNotHeldError({ key, reason: "lost", cause }),
    "LockNotHeldError",
    "LOCK_NOT_HELD",
    'Lock "invoice:42" is not held: it was lost: boom',
    cause,
  ],
  [
    new LockNotHeldError({ key, reason: "lost" }),
    "LockNotHeldError",
    "LOCK_NOT_HELD",
    'Lock "invoice:42" is not held: it was lost',
  ],
  [
    new LockNotHeldError({ key, reason: "closed" }),
    "LockNotHeldError",
    "LOCK_NOT_HELD",
    'Lock "invoice:42" is not held: its locker was closed',
  ],
  [
    new LockLostError({ key, cause }),
    "LockLostError",
    "LOCK_LOST",
    'Lock "invoice:42" was lost: boom',
    cause,
  ],
  [
    new LockExpiredError({ key, ttl: 30_000 }),
    "LockExpiredError",
    "LOCK_EXPIRED",
    'Lock "invoice:42" expired: it was not refreshed within 30000 ms',
  ],
  [
    new EmptyKeyError(),
    "EmptyKeyError",
    "EMPTY_KEY",
    "Expected `key` to have at least one character, got an empty string",
  ],
  [
    new InvalidKeyError(5),
    "InvalidKeyError",
    "INVALID_KEY",
    "Expected `key` to be a string without lone surrogates, or a Uint8Array, got `5` (number)",
  ],
  [
    new InvalidTtlError("5"),
    "InvalidTtlError",
    "INVALID_TTL",
    'Expected `ttl` to be a duration of at least 1 ms, such as 30000 or "30s", got `"5"` (string)',
  ],
  [
    new InvalidConfigError({ field: "mode", got: null, wants: "a mode" }),
    "InvalidConfigError",
    "INVALID_CONFIG",
    "Expected `mode` to be a mode, got `null`",
  ],
  [
    new CircuitOpenError({ cause }),
    "CircuitOpenError",
    "CIRCUIT_OPEN",
    "The circuit breaker refused: boom",
    cause,
  ],
  [new LockerClosedError(), "LockerClosedError", "LOCKER_CLOSED", "The locker is closed"],
  [
    new DatabaseError({ doing: "Ping", cause }),
    "DatabaseError",
    "DATABASE_ERROR",
    "Ping failed: boom",
    cause,
  ],
  [
    new PoolerDetectedError({ announced: 1, actual: 2 }),
    "PoolerDetectedError",
    "POOLER_DETECTED",
    "The session announced backend 1 but is served by 2: a connection pooler stands between, which would let two " +
      "callers hold one lock. Connect the locker to the server's own port, or, if the pooler keeps one session for " +
      'each client (session mode), say so with `pooler: "session"`',
  ],
  [
    new LockTableFullError({ cause }),
    "LockTableFullError",
    "LOCK_TABLE_FULL",
    "The server has no room for another lock (53200, out of shared memory). Hold fewer at once, or raise " +
      "`max_locks_per_transaction` on the server, which takes a restart",
    cause,
  ],
  [
    new ServerTooOldError({ cause }),
    "ServerTooOldError",
    "SERVER_TOO_OLD",
    "The server is older than PostgreSQL 14, the oldest version supported",
    cause,
  ],
  [
    new LocksNotKeptError(),
    "LocksNotKeptError",
    "LOCKS_NOT_KEPT",
    "The server says that it grants advisory locks but does not keep them: a second session was granted the same lock, " +
      "or the first could not find its own. Some databases that speak PostgreSQL's protocol do this. Connect the locker to PostgreSQL",
  ],
  [
    new StandbyError(),
    "StandbyError",
    "STANDBY",
    "The server is a standby, whose locks exclude nobody on the primary. Connect the locker to the primary",
  ],
];

test.each(all.map((row) => [row[1], row] as const))("%s says what happened", (_, row) => {
  const [error, name, code, sentence, itsCause] = row;
  expect(error).toBeInstanceOf(LockerError);
  expect(error).toBeInstanceOf(Error);
  expect(error.name).toBe(name);
  expect(error.code).toBe(code);
  expect(error.message).toBe(sentence);
  expect(error.cause).toBe(itsCause);
  expect("cause" in error).toBe(itsCause !== undefined);
});

test("every error that is exported is in the table", () => {
  const exported = Object.keys(library).filter((name) => name.endsWith("Error") && name !== "LockerError");
  expect([...new Set(all.map(([error]) => error.name))].sort()).toEqual(exported.sort());
});

describe("DatabaseError.sqlState", () => {
  const state = (code: unknown) =>
    new DatabaseError({ doing: "It", cause: Object.assign(new Error("x"), { code }) }).sqlState;

  test("is PostgreSQL's code", () => {
    expect(state("57P01")).toBe("57P01");
  });

  test.each(["ECONNREFUSED", "EPIPE", "57p01", 57001, undefined, ""])("is absent for %j", (code) => {
    expect(state(code)).toBeUndefined();
  });

  test.each(["cause", "original"])("is that of the driver's error, in the `%s` of a library's", (where) => {
    const drivers = Object.assign(new Error("x"), { code: "25P01" });
    const librarys = Object.assign(new Error("y"), { code: "ER_QUERY", [where]: drivers });
    expect(new DatabaseError({ doing: "It", cause: librarys }).sqlState).toBe("25P01");
    expect(new DatabaseError({ doing: "It", cause: new Error("z", { cause: librarys }) }).sqlState).toBe(
      "25P01",
    );
  });

  test("is absent if an error wraps itself", () => {
    const error = new Error("x");
    error.cause = error;
    expect(new DatabaseError({ doing: "It", cause: error }).sqlState).toBeUndefined();
  });

  test.each([["a string"], [undefined], [null]])("is absent if the cause is %j", (thrown) => {
    expect(new DatabaseError({ doing: "It", cause: thrown }).sqlState).toBeUndefined();
  });
});

test("the driver's AggregateError without a message says what is in it", () => {
  // biome-ignore lint/suspicious/useErrorMessage: Node makes it without one
  const refused = new AggregateError([new Error("refused ::1"), new Error("refused 127.0.0.1")]);
  expect(new DatabaseError({ doing: "Ping", cause: refused }).message).toBe(
    "Ping failed: refused ::1; refused 127.0.0.1",
  );
});

test("a long key is cut, and a strange one is quoted", () => {
  const long = new LockNotAcquiredError({ key: "x".repeat(1_000_000), reason: "held" });
  expect(long.message.length).toBeLessThan(200);
  expect(long.key).toHaveLength(1_000_000);
  expect(new LockNotAcquiredError({ key: 'a"\n', reason: "held" }).message).toContain('"a\\"\\n"');
});
