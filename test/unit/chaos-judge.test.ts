import { expect, test } from "vitest";
import {
  type Claim,
  claimsOf,
  type Ending,
  judgeClaims,
  judgeOverlaps,
  judgeRows,
  judgeTokens,
  refusedInBelief,
  type Sample,
  staleWrites,
  unavailability,
  voidBecause,
  // biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
} from "../../chaos/judge.mjs";

/** A belief with a TTL of 500 ms that ended by itself. */
function claim(worker: number, start: number, end: number, more: Partial<Claim> = {}): Claim {
  const token = BigInt(start);
  return { worker, key: "k", ttl: 500, token, asked: start - 5, start, end, why: "expired", ...more };
}

/** The session of worker 1 was ended by others. */
function ending(at: number, more: Partial<Ending> = {}): Ending {
  return { kind: "terminate", worker: 1, keys: ["k"], at, until: at + 10, ...more };
}

/** The primary of a timeline was left for that of the next one, and went on for 300 ms. */
function failover(at: number): Ending[] {
  const facts = { kind: "failover", worker: undefined, keys: undefined, timeline: 1 };
  return [
    ending(at, { ...facts, beside: true, until: at + 300 }),
    ending(at + 280, { ...facts, until: at + 400 }),
  ];
}

/** A belief in what the server of a timeline granted. */
function granted(timeline: number, ...[worker, start, end, more]: Parameters<typeof claim>): Claim {
  return claim(worker, start, end, { token: (BigInt(timeline) << 48n) + BigInt(start), ...more });
}

/** One a tick of 20 ms, each with the lock of the workers that have it then. */
function samples(until: number, has: (time: number) => number[]): Sample[] {
  return Array.from({ length: until / 20 }, (_, index) => {
    const from = index * 20;
    const rows = has(from).map((worker) => ({ key: "k", pid: 100 + worker, worker }));
    return { from, to: from + 2, rows };
  });
}

test("a claim lasts from the first to the last time that the lock was held", () => {
  const claims = claimsOf(3, [
    ["got", 1, "k", 500, "12", 90],
    ["held", 1, 100],
    ["got", 2, "j", 400, "13", 95],
    ["held", 1, 101],
    ["held", 1, 150],
    ["end", 1, "released"],
    ["got", 3, "k", 400, "14", 96],
  ]);
  const facts = { worker: 3, key: "k", ttl: 500, token: 12n, asked: 90 };
  // The other two were never seen to be held.
  expect(claims).toEqual([{ ...facts, start: 100, end: 150, why: "released" }]);
  const killed = claimsOf(3, [
    ["got", 1, "k", 500, "12", 90],
    ["held", 1, 100],
  ]);
  expect(killed).toEqual([{ ...facts, start: 100, end: 100, why: "cut short" }]);
});

test("claims one after the other, or of two keys, are right", () => {
  const claims = [claim(1, 0, 100), claim(2, 100, 200), claim(3, 50, 150, { key: "j" })];
  expect(judgeOverlaps(claims, [])).toEqual({ overlaps: [], wrong: [] });
});

test("an overlap is wrong, however short, unless others had ended a session", () => {
  const short = judgeOverlaps([claim(1, 0, 100), claim(2, 99, 200)], []);
  expect(short.overlaps).toMatchObject([{ milliseconds: 1, kind: undefined }]);
  expect(short.wrong).toHaveLength(1);
  const moment = judgeOverlaps([claim(1, 0, 100), claim(2, 60, 60)], []);
  expect(moment.wrong).toHaveLength(1);
  const three = judgeOverlaps([claim(1, 0, 100), claim(2, 10, 15), claim(3, 50, 60)], []);
  expect(three.overlaps.map(({ first, second }) => [first.worker, second.worker])).toEqual([
    [1, 2],
    [1, 3],
  ]);
});

test("an overlap after others ended the session is counted, with what was told", () => {
  const told = judgeOverlaps([claim(1, 0, 100, { why: "lost" }), claim(2, 90, 200)], [ending(80)]);
  expect(told.wrong).toEqual([]);
  expect(told.overlaps).toMatchObject([{ kind: "terminate", warned: true, milliseconds: 10 }]);
  const untold = judgeOverlaps([claim(1, 0, 100), claim(2, 90, 200)], [ending(80)]);
  expect(untold.overlaps).toMatchObject([{ kind: "terminate", warned: false }]);
  const restart = ending(80, { kind: "restart", worker: undefined, keys: undefined });
  expect(judgeOverlaps([claim(1, 0, 100), claim(2, 90, 200)], [restart]).wrong).toEqual([]);
});

test.each([
  ["of another worker", ending(80, { worker: 3 })],
  ["of another key", ending(80, { keys: ["j"] })],
  ["before the lock was asked for", ending(-100)],
  ["after the overlap had begun", ending(91)],
])("an ending %s explains nothing", (_, other) => {
  expect(judgeOverlaps([claim(1, 0, 100), claim(2, 90, 200)], [other]).wrong).toHaveLength(1);
});

test("no overlap of released claims is excused: their sessions lasted to the end", () => {
  const released = { why: "released" } as const;
  const claims = [claim(1, 0, 100, released), claim(2, 90, 200, released)];
  expect(judgeOverlaps(claims, [ending(80)]).wrong).toHaveLength(1);
});

test("an overlap longer than a TTL is wrong, whoever ended the session", () => {
  const claims = (end: number) => [claim(1, 0, end), claim(2, 90, 2_000)];
  expect(judgeOverlaps(claims(590), [ending(80)]).wrong).toEqual([]);
  expect(judgeOverlaps(claims(591), [ending(80)]).wrong).toHaveLength(1);
});

test("an overlap over a failover is counted: the old primary's holders may go on", () => {
  for (const why of ["expired", "lost", "released"] as const) {
    const claims = [granted(1, 1, 0, 200, { why }), granted(2, 2, 150, 300)];
    expect(judgeOverlaps(claims, []).wrong).toHaveLength(1);
    const { overlaps, wrong } = judgeOverlaps(claims, failover(100));
    expect(wrong).toEqual([]);
    expect(overlaps).toMatchObject([{ kind: "failover", milliseconds: 50 }]);
  }
  // Granted by the old primary while the other had been there for long.
  const late = [granted(2, 2, 150, 300), granted(1, 1, 250, 280, { why: "released" })];
  expect(judgeOverlaps(late, failover(100)).wrong).toEqual([]);
});

test("an overlap over a failover lasts at most a TTL after the old primary's end", () => {
  const claims = (end: number) => [granted(1, 1, 0, end), granted(2, 2, 150, 2_000)];
  // It went on until 400.
  expect(judgeOverlaps(claims(900), failover(100)).wrong).toEqual([]);
  expect(judgeOverlaps(claims(901), failover(100)).wrong).toHaveLength(1);
});

test("a failover excuses no overlap on one server, except at the old primary's end", () => {
  const ofOld = [granted(1, 1, 0, 200), granted(1, 2, 150, 300)];
  expect(judgeOverlaps(ofOld, failover(100)).wrong).toHaveLength(1);
  const ofNew = [granted(2, 1, 150, 300), granted(2, 2, 200, 350)];
  expect(judgeOverlaps(ofNew, failover(100)).wrong).toHaveLength(1);
  const afterItsEnd = [granted(1, 1, 0, 410), granted(1, 2, 390, 410)];
  expect(judgeOverlaps(afterItsEnd, failover(100)).wrong).toEqual([]);
});

test("a failover excuses only the old primary's samples, writes and tokens", () => {
  const gone = samples(300, (time) => (time < 100 ? [1] : []));
  const [old, other] = [granted(1, 1, 30, 200, { why: "released" }), granted(2, 1, 120, 200)];
  expect(judgeClaims([old], gone, failover(95))).toEqual({ checks: 8, excused: 5, wrong: [] });
  expect(judgeClaims([other], gone, failover(95)).wrong).toHaveLength(4);
  const refused = ({ worker, token }: Claim) =>
    ({ worker, token, outcome: "refused", from: 130, to: 140 }) as const;
  expect(refusedInBelief([old], [refused(old)], failover(95))).toEqual([]);
  expect(refusedInBelief([other], [refused(other)], failover(95))).toHaveLength(1);
  const beside = granted(1, 2, 150, 160, { why: "released" });
  expect(judgeTokens([other, beside], failover(95))).toEqual([]);
  expect(judgeTokens([other, beside], [])).toHaveLength(1);
  // It can't have been granted any more.
  expect(judgeTokens([other, granted(1, 2, 1_500, 1_600)], failover(95))).toHaveLength(1);
});

test("a token that doesn't grow is wrong", () => {
  expect(judgeTokens([claim(1, 0, 10, { token: 5n }), claim(2, 20, 30, { token: 6n })], [])).toEqual([]);
  expect(judgeTokens([claim(1, 0, 10, { token: 5n }), claim(2, 20, 30, { token: 5n })], [])).toHaveLength(1);
  expect(judgeTokens([claim(1, 0, 10, { token: 5n }), claim(2, 20, 30, { token: 4n })], [])).toHaveLength(1);
  // The news of a grant may come after the lock has gone to another, if somebody had ended that session.
  const late = [claim(2, 0, 10, { token: 6n }), claim(1, 20, 30, { token: 4n })];
  expect(judgeTokens(late, [ending(18)])).toEqual([]);
});

test("a write accepted past a larger token is stale; that of another key is not", () => {
  const writes = [
    { key: "k", token: "9" },
    { key: "j", token: "3" },
    { key: "k", token: "9" },
    { key: "k", token: "10" },
  ];
  expect(staleWrites(writes)).toEqual([]);
  expect(staleWrites([...writes, { key: "k", token: "9" }])).toEqual(["k: 9 was accepted after 10"]);
});

test("a write refused in the midst of belief is wrong; a late one is not", () => {
  const put = { worker: 1, token: 0n, outcome: "refused", from: 10, to: 20 } as const;
  expect(refusedInBelief([claim(1, 0, 100)], [put], [])).toHaveLength(1);
  expect(refusedInBelief([claim(1, 0, 100)], [put], [ending(5)])).toEqual([]);
  expect(refusedInBelief([claim(1, 0, 15)], [put], [])).toEqual([]);
  expect(refusedInBelief([claim(1, 0, 100)], [{ ...put, outcome: "accepted" }], [])).toEqual([]);
});

test("a claim unknown to the server is wrong, unless others ended its session", () => {
  const claims = [claim(1, 30, 200)];
  const always = judgeClaims(
    claims,
    samples(300, () => [1]),
    [],
  );
  expect(always).toEqual({ checks: 8, excused: 0, wrong: [] });
  const gone = samples(300, (time) => (time < 100 ? [1] : []));
  expect(judgeClaims(claims, gone, []).wrong).toHaveLength(5);
  expect(judgeClaims(claims, gone, [ending(95)])).toEqual({ checks: 8, excused: 5, wrong: [] });
  const another = samples(300, () => [2]);
  expect(judgeClaims(claims, another, []).wrong).toHaveLength(8);
  // The role of a session that is just ending can't be seen.
  const ends = another.map((sample) => ({
    ...sample,
    rows: sample.rows.map((row) => ({ ...row, worker: undefined })),
  }));
  expect(judgeClaims(claims, ends, []).wrong).toEqual([]);
});

test("a lock in the server that nobody claims for longer than allowed is wrong", () => {
  const claims = [claim(1, 100, 400)];
  const ended = judgeRows(
    claims,
    samples(800, (time) => (time >= 60 && time < 700 ? [1] : [])),
    300,
  );
  expect(ended).toEqual({ longest: 282, wrong: [] });
  const stays = judgeRows(
    claims,
    samples(2_000, (time) => (time >= 60 ? [1] : [])),
    300,
  );
  expect(stays.wrong).toHaveLength(1);
  const nobodys = judgeRows(
    [],
    samples(2_000, (time) => (time >= 500 && time < 1_000 ? [2] : [])),
    300,
  );
  expect(nobodys.wrong).toHaveLength(1);
  const before = judgeRows(
    [claim(1, 600, 900)],
    samples(900, (time) => (time >= 100 ? [1] : [])),
    300,
  );
  expect(before.wrong).toHaveLength(1);
});

test("a session that takes the lock again and again leaves nothing unclaimed", () => {
  const claims = Array.from({ length: 40 }, (_, index) => claim(1, index * 50, index * 50 + 45));
  const { longest, wrong } = judgeRows(
    claims,
    samples(2_000, () => [1]),
    60,
  );
  expect(wrong).toEqual([]);
  expect(longest).toBeLessThan(20);
});

test("a key is unavailable from the fault that freed it until the next claim", () => {
  const claims = [claim(1, 0, 100), claim(2, 700, 800, { why: "released" }), claim(3, 900, 950)];
  const fault = (worker: number | undefined, at: number) => ({ kind: "kill", worker, at });
  expect(unavailability(claims, [fault(1, 99)])).toMatchObject([{ key: "k", milliseconds: 601 }]);
  expect(unavailability(claims, [fault(undefined, 50)])).toMatchObject([{ milliseconds: 650 }]);
  // It held nothing then, it gave the lock back itself, nobody came after it.
  expect(unavailability(claims, [fault(1, 300), fault(2, 750), fault(3, 920)])).toEqual([]);
});

test("a quiet run is void, and so is one without a kind of fault", () => {
  const facts = { acquires: 500, seconds: 60, floor: 5, samples: 3_000, kinds: ["kill", "block"] };
  const faults = [{ kind: "kill" }, { kind: "block" }];
  expect(voidBecause({ ...facts, faults })).toEqual([]);
  expect(voidBecause({ ...facts, faults, acquires: 100 })).toHaveLength(1);
  expect(voidBecause({ ...facts, faults, samples: 20 })).toHaveLength(1);
  expect(voidBecause({ ...facts, faults: faults.slice(1) })).toEqual(["no fault of the kind kill"]);
});
