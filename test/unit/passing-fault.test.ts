import { inspect } from "node:util";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import {
  CircuitOpenError,
  DatabaseError,
  InvalidTtlError,
  LockerClosedError,
  LockNotAcquiredError,
  LocksNotKeptError,
  LockTableFullError,
  PoolerDetectedError,
  ServerTooOldError,
  StandbyError,
} from "../../src/index.ts";
import { isPassing } from "../../src/postgres/passing-fault.ts";

function coded(code: unknown, message = "failed"): Error {
  return Object.assign(new Error(message), { code });
}

const of = (cause: unknown): DatabaseError => new DatabaseError({ doing: "Taking the lock", cause });

/** An error, and whether waiting can mend it: before the locker has first reached its database, and afterwards. */
const faults: readonly (readonly [what: string, error: unknown, before: boolean, after: boolean])[] = [
  // The connection, and a server that goes down or comes up.
  ...["08000", "08001", "08003", "08004", "08006", "08P01"].map(
    (code) => [code, of(coded(code)), true, true] as const,
  ),
  ["57P01: an administrator ends the session", of(coded("57P01")), true, true],
  ["57P02: another backend has crashed", of(coded("57P02")), true, true],
  ["57P03: the server starts", of(coded("57P03")), true, true],
  ["57P05: the session was idle for too long", of(coded("57P05")), true, true],
  ["25P02: in a failed transaction", of(coded("25P02")), true, true],
  ["25P03: idle in a transaction for too long", of(coded("25P03")), true, true],
  ["25P04: a transaction took too long", of(coded("25P04")), true, true],
  ["53000", of(coded("53000")), true, true],
  ["53100: the disk is full", of(coded("53100")), true, true],
  ["53300: too many connections", of(coded("53300")), true, true],
  ["53400: a limit of the configuration", of(coded("53400")), false, false],
  ["53200: out of shared memory", of(coded("53200")), false, false],
  ["55000: the database takes no connections", of(coded("55000")), true, true],
  ["57014: a statement was cancelled", of(coded("57014")), true, true],
  // Faults that stay as they are.
  ["57P04: the database was dropped", of(coded("57P04")), false, false],
  ["28P01: a wrong password", of(coded("28P01")), false, false],
  ["28000: pg_hba.conf has no entry", of(coded("28000")), false, false],
  ["3D000: there is no such database", of(coded("3D000")), false, false],
  ["42501: no permission", of(coded("42501")), false, false],
  ["42883: there is no such function", of(coded("42883")), false, false],
  ["25006: read only", of(coded("25006")), false, false],
  ["XX000: something internal", of(coded("XX000")), false, false],
  // Errors of the system.
  ...[
    "ECONNREFUSED",
    "ECONNRESET",
    "EPIPE",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "EAI_AGAIN",
    "EMFILE",
  ].map((code) => [code, of(coded(code)), true, true] as const),
  ["ENOTFOUND: a host that is not there, yet or any more", of(coded("ENOTFOUND")), false, true],
  ["ENOENT: a socket that is not there, yet or any more", of(coded("ENOENT")), false, true],
  ["EACCES: a socket that may not be opened", of(coded("EACCES")), false, false],
  ["CERT_HAS_EXPIRED", of(coded("CERT_HAS_EXPIRED")), false, false],
  ["DEPTH_ZERO_SELF_SIGNED_CERT", of(coded("DEPTH_ZERO_SELF_SIGNED_CERT")), false, false],
  ["ERR_INVALID_ARG_TYPE", of(coded("ERR_INVALID_ARG_TYPE")), false, false],
  // Every address of a host failed.
  [
    "all addresses refuse",
    of(new AggregateError([coded("ECONNREFUSED"), coded("ECONNREFUSED")], "refused")),
    true,
    true,
  ],
  [
    "one of them is forbidden",
    of(new AggregateError([coded("ECONNREFUSED"), coded("EACCES")], "refused")),
    false,
    false,
  ],
  ["of no address", of(new AggregateError([], "refused")), false, false],
  // Errors of the driver that have only words.
  ["the connection ended", of(new Error("Connection terminated unexpectedly")), true, true],
  ["no answer came", of(new Error("no answer within 5000 ms")), true, true],
  ["the driver's own time-out", of(new Error("timeout expired")), true, true],
  ["an empty code is none", of(coded("")), true, true],
  ["a number is no code", of(coded(1)), true, true],
  [
    "no password was given",
    of(new Error("SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string")),
    false,
    false,
  ],
  ["the server has no TLS", of(new Error("The server does not support SSL connections")), false, false],
  [
    "a mistake of the caller's",
    of(new TypeError("Client was passed a null or undefined query")),
    false,
    false,
  ],
  ["a number out of range", of(new RangeError("out of range")), false, false],
  ["no error at all", of("something"), false, false],
  ["nothing", of(undefined), false, false],
  // Errors of the library itself.
  ["a full pool", new LockNotAcquiredError({ key: "k", reason: "pool-saturated", waited: 1 }), true, true],
  [
    "no connection",
    new LockNotAcquiredError({ key: "k", reason: "connection-timeout", waited: 1 }),
    true,
    true,
  ],
  ["held elsewhere", new LockNotAcquiredError({ key: "k", reason: "held" }), false, false],
  [
    "the wait is over",
    new LockNotAcquiredError({ key: "k", reason: "wait-timeout", waited: 1 }),
    false,
    false,
  ],
  [
    "two keys of one id",
    new LockNotAcquiredError({ key: "k", reason: "id-collision", otherKey: "l" }),
    false,
    false,
  ],
  ["a standby", new StandbyError(), false, true],
  ["the breaker is open", new CircuitOpenError({ cause: new Error("open") }), true, true],
  ["a pooler", new PoolerDetectedError({ announced: 1, actual: 2 }), false, false],
  ["a full table of locks", new LockTableFullError({ cause: coded("53200") }), false, false],
  ["a server that keeps no locks", new LocksNotKeptError(), false, false],
  ["a server that is too old", new ServerTooOldError({ cause: coded("42883") }), false, false],
  ["a closed locker", new LockerClosedError(), false, false],
  ["a TTL that is none", new InvalidTtlError(0), false, false],
  ["a standby, as a cause", of(new StandbyError()), false, false],
  ["an error of somebody else's", new Error("theirs"), false, false],
  ["a string", "theirs", false, false],
];

/** Under jest, the errors of Node.js are of another realm than the tests. */
describe("an error of another realm", () => {
  const refused = "Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })";

  test.each([
    ["an error", refused],
    ["an AggregateError without a message", `new AggregateError([${refused}])`],
  ])("is told like any other: %s", (_, made) => {
    const error = of(runInNewContext(made));
    expect(error.message).toBe("Taking the lock failed: connect ECONNREFUSED");
    expect(isPassing(error, false)).toBe(true);
  });

  test("shows no password either", () => {
    const made = "Object.assign(new Error('Invalid URL'), { code: 'ERR_INVALID_URL', input: 's3cret' })";
    expect(inspect(of(runInNewContext(made)))).not.toContain("s3cret");
  });
});

describe("what waiting can mend", () => {
  test.each(faults)("%s", (_, error, before, after) => {
    expect([isPassing(error, false), isPassing(error, true)]).toEqual([before, after]);
  });
});
