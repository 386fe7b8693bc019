import { expect, test } from "vitest";
import {
  type Claim,
  type Ending,
  type Fault,
  hasLostItsRow,
  judgeClaim,
  lostByStall,
  type Overlap,
  Overlaps,
  Rows,
  refusedWhileClaimed,
  type Sample,
  StaleWrites,
  Tokens,
  Unavailability,
  voidBecause,
  // biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
} from "../../chaos/judge.mjs";

const byStart = (a: Claim, b: Claim): number => a.start - b.start;

function judgeOverlaps(claims: readonly Claim[], endings: readonly Ending[]) {
  const overlaps: Overlap[] = [];
  const judge = new Overlaps(endings, (overlap) => overlaps.push(overlap));
  for (const each of [...claims].sort(byStart)) judge.claim(each);
  return { overlaps, wrong: judge.wrong };
}

function judgeTokens(claims: readonly Claim[], endings: readonly Ending[]): string[] {
  const judge = new Tokens(endings);
  for (const each of [...claims].sort(byStart)) judge.claim(each);
  return judge.wrong;
}

function judgeRows(claims: readonly Claim[], seen: readonly Sample[], allowed: number) {
  const judge = new Rows(() => allowed);
  for (const each of claims) judge.claim(each);
  for (const each of seen) judge.sample(each);
  return { longest: judge.longest.milliseconds, wrong: judge.wrong };
}

function staleWrites(writes: ReadonlyArray<{ key: string; token: string }>): string[] {
  const judge = new StaleWrites();
  for (const each of writes) judge.write(each);
  return judge.wrong;
}

function unavailability(claims: readonly Claim[], faults: readonly Fault[]) {
  const costs: Array<{ fault: Fault; key: string; milliseconds: number }> = [];
  const judge = new Unavailability(faults, (cost) => costs.push(cost));
  for (const each of [...claims].sort(byStart)) judge.claim(each);
  return costs;
}

/** A claim with a TTL of 500 ms that ended by itself. */
function claim(worker: number, start: number, end: number, more: Partial<Claim> = {}): Claim {
  const token = BigInt(start);
  const facts = { worker, key: "k", mode: "exclusive", ttl: 500, token, timeline: 0, refused: [] } as const;
  return { ...facts, asked: start - 5, start, end, why: "expired", ...more };
}

/** The session of worker 1 was ended from outside. */
function ending(at: number, more: Partial<Ending> = {}): Ending {
  return { kind: "terminate", worker: 1, at, until: at + 10, ...more };
}

/** A failover from the primary of one timeline to that of the next; the old primary went on for 300 ms. */
function failover(at: number): Ending[] {
  const facts = { kind: "failover", worker: undefined, timeline: 1 };
  return [
    ending(at, { ...facts, beside: true, until: at + 300 }),
    ending(at + 280, { ...facts, until: at + 400 }),
  ];
}

/** A claim on a lock that the server of a timeline granted. */
function granted(timeline: number, ...[worker, start, end, more]: Parameters<typeof claim>): Claim {
  return claim(worker, start, end, { token: (BigInt(timeline) << 48n) + BigInt(start), timeline, ...more });
}

/** One sample for each tick of 20 ms, each with the locks of the workers that hold one then. */
function samples(until: number, has: (time: number) => number[]): Sample[] {
  return Array.from({ length: until / 20 }, (_, index) => {
    const from = index * 20;
    const rows = has(from).map((worker) => ({ pid: 100 + worker, worker, mode: "exclusive" as const }));
    return { from, to: from + 2, rows: new Map([["k", rows]]) };
  });
}

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
  const restart = ending(80, { kind: "restart", worker: undefined });
  expect(judgeOverlaps([claim(1, 0, 100), claim(2, 90, 200)], [restart]).wrong).toEqual([]);
});

test.each([
  ["of another worker", ending(80, { worker: 3 })],
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

test("a reader's release proves nothing: there may be another on its session", () => {
  const reader = claim(1, 0, 100, { why: "released", mode: "shared" });
  expect(judgeOverlaps([reader, claim(2, 90, 200)], [ending(80)]).wrong).toEqual([]);
  expect(judgeOverlaps([reader, claim(2, 90, 200)], []).wrong).toHaveLength(1);
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
  // Granted by the old primary long after the new one was there.
  const late = [granted(2, 2, 150, 300), granted(1, 1, 250, 280, { why: "released" })];
  expect(judgeOverlaps(late, failover(100)).wrong).toEqual([]);
});

test("an overlap over a failover lasts at most a TTL after the old primary's end", () => {
  const claims = (end: number) => [granted(1, 1, 0, end), granted(2, 2, 150, 2_000)];
  // The old primary went on until 400.
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
  expect(judgeClaim(old, gone, failover(95))).toEqual({ checks: 8, excused: 5, wrong: [] });
  expect(judgeClaim(other, gone, failover(95)).wrong).toHaveLength(4);
  const refused = (each: Claim) => ({ ...each, refused: [{ from: 130, to: 140 }] });
  expect(refusedWhileClaimed(refused(old), failover(95))).toEqual([]);
  expect(refusedWhileClaimed(refused(other), failover(95))).toHaveLength(1);
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
  // The news of a grant may come after the lock has gone to another worker, if somebody had ended that session.
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
  expect(staleWrites([...writes, { key: "k", token: "9" }])).toEqual([
    "k: a stale write: 9 was accepted after 10",
  ]);
});

test("a write refused in the midst of a claim is wrong; a late one is not", () => {
  const refused = (end: number) => claim(1, 0, end, { refused: [{ from: 10, to: 20 }] });
  expect(refusedWhileClaimed(refused(100), [])).toHaveLength(1);
  expect(refusedWhileClaimed(refused(100), [ending(5)])).toEqual([]);
  expect(refusedWhileClaimed(refused(15), [])).toEqual([]);
});

test("a claim unknown to the server is wrong, unless others ended its session", () => {
  const claimed = claim(1, 30, 200);
  const always = samples(300, () => [1]);
  expect(judgeClaim(claimed, always, [])).toEqual({ checks: 8, excused: 0, wrong: [] });
  const gone = samples(300, (time) => (time < 100 ? [1] : []));
  expect(judgeClaim(claimed, gone, []).wrong).toHaveLength(5);
  expect(judgeClaim(claimed, gone, [ending(95)])).toEqual({ checks: 8, excused: 5, wrong: [] });
  const another = samples(300, () => [2]);
  expect(judgeClaim(claimed, another, []).wrong).toHaveLength(8);
  // The role of a session that is just ending can't be seen.
  const ends = another.map((sample) => ({
    ...sample,
    rows: new Map([["k", [{ pid: 102, mode: "exclusive" as const, worker: undefined }]]]),
  }));
  expect(judgeClaim(claimed, ends, []).wrong).toEqual([]);
  // A reader's lock doesn't count as a writer's, nor the other way round.
  expect(judgeClaim({ ...claimed, mode: "shared" }, always, []).wrong).toHaveLength(8);
});

test("readers may overlap, but not a writer, whose token alone has to be smaller", () => {
  const reader = (worker: number, start: number, end: number, token: bigint) =>
    claim(worker, start, end, { mode: "shared", token });
  const readers = [reader(1, 0, 100, 8n), reader(2, 50, 150, 7n)];
  expect(judgeOverlaps(readers, []).wrong).toEqual([]);
  expect(judgeOverlaps([...readers, claim(3, 140, 160)], []).wrong).toHaveLength(1);
  expect(judgeOverlaps([...readers, claim(3, 150, 160)], []).wrong).toEqual([]);
  expect(judgeTokens(readers, [])).toEqual([]);
  expect(judgeTokens([...readers, claim(3, 160, 170, { token: 8n })], [])).toHaveLength(1);
  expect(judgeTokens([claim(3, -20, -10, { token: 7n }), ...readers], [])).toHaveLength(1);
});

test("an overlap of a committed transaction is excused by another primary alone", () => {
  const committed = granted(1, 1, 0, 100, { why: "committed", token: undefined });
  const other = granted(1, 2, 90, 200);
  expect(judgeOverlaps([committed, other], [ending(80)]).wrong).toHaveLength(1);
  expect(judgeOverlaps([committed, granted(2, 2, 90, 200)], failover(80)).wrong).toEqual([]);
});

test("only a failover excuses that what was committed is not there", () => {
  const committed = claim(1, 1_000, 1_050);
  expect(hasLostItsRow(committed, 1_060, [])).toBe(false);
  expect(hasLostItsRow(committed, 1_060, [ending(1_100)])).toBe(false);
  expect(hasLostItsRow(committed, 1_060, failover(1_100))).toBe(true);
  expect(hasLostItsRow(committed, 1_060, failover(4_000))).toBe(false);
  expect(hasLostItsRow(committed, 1_060, failover(500))).toBe(false);
});

test("a stall costs no lock of a much longer TTL, unless something else was done", () => {
  const stall = { kind: "stall-stop", worker: 1, at: 1_000, until: 7_000 };
  const lost = claim(1, 900, 1_000, { ttl: 20_000, asked: 800, why: "lost" });
  expect(lostByStall(lost, [stall]).wrong).toHaveLength(1);
  expect(lostByStall({ ...lost, why: "expired" }, [stall]).wrong).toHaveLength(1);
  expect(lostByStall({ ...lost, ttl: 10_000 }, [stall]).wrong).toEqual([]);
  expect(lostByStall({ ...lost, worker: 2 }, [stall]).wrong).toEqual([]);
  expect(lostByStall({ ...lost, why: "released" }, [stall])).toEqual({ isKept: false, wrong: [] });
  expect(lostByStall({ ...lost, end: 7_100, why: "released" }, [stall])).toEqual({ isKept: true, wrong: [] });
  const other = (worker: number | undefined, at: number, until: number) => [
    stall,
    { kind: "reset", worker, at, until },
  ];
  expect(lostByStall(lost, other(1, 700, 850)).wrong).toEqual([]);
  expect(lostByStall(lost, other(undefined, 3_000, 4_000)).wrong).toEqual([]);
  expect(lostByStall(lost, other(2, 3_000, 4_000)).wrong).toHaveLength(1);
  expect(lostByStall(lost, other(1, 600, 790)).wrong).toHaveLength(1);
});

test("a lock in the server that nobody claims for longer than allowed is wrong", () => {
  const claims = [claim(1, 100, 400)];
  const ended = judgeRows(
    claims,
    samples(800, (time) => (time >= 60 && time < 700 ? [1] : [])),
    300,
  );
  expect(ended).toEqual({ longest: 260, wrong: [] });
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

test("an attempt that may have been granted starts the time without a claim anew", () => {
  const attempts = [300, 550].map((at) => claim(1, at, at));
  const always = samples(800, () => [1]);
  expect(judgeRows(attempts, always, 320)).toEqual({ longest: 280, wrong: [] });
  expect(judgeRows(attempts.slice(0, 1), always, 320).wrong).toHaveLength(1);
});

test("between samples that are far apart, nobody knows whether a lock stayed", () => {
  const always = samples(6_000, () => [1]);
  const isSeen = (from: number) => from < 1_000 || from > 5_000;
  const gap = always.filter(({ from }) => isSeen(from));
  expect(judgeRows([], gap, 2_000)).toEqual({ longest: 980, wrong: [] });
  expect(judgeRows([], always, 2_000).wrong).toHaveLength(1);
});

test("a busy process may take longer by as much as its event loop was late", () => {
  const always = samples(2_000, () => [1]);
  const judge = (late: ReadonlyArray<readonly [worker: number, start: number, end: number]>) => {
    const rows = new Rows(() => 1_500);
    for (const [worker, start, end] of late) rows.late({ worker, start, end });
    for (const each of always) rows.sample(each);
    return rows.wrong;
  };
  expect(judge([])).toHaveLength(1);
  expect(
    judge([
      [1, 200, 500],
      [1, 900, 1_200],
    ]),
  ).toEqual([]);
  expect(judge([[2, 200, 800]])).toHaveLength(1);
  // A stall is not lateness: the server ends the session.
  expect(judge([[1, 200, 1_500]])).toHaveLength(1);
});

test("a key is unavailable from the fault that freed it until the next claim", () => {
  const claims = [claim(1, 0, 100), claim(2, 700, 800, { why: "released" }), claim(3, 900, 950)];
  const fault = (worker: number | undefined, at: number) => ({ kind: "kill", worker, at, until: at + 1 });
  expect(unavailability(claims, [fault(1, 99)])).toMatchObject([{ key: "k", milliseconds: 601 }]);
  expect(unavailability(claims, [fault(undefined, 50)])).toMatchObject([{ milliseconds: 650 }]);
  // The worker held nothing then, it released the lock itself, or nobody came after it.
  expect(unavailability(claims, [fault(1, 300), fault(2, 750), fault(3, 920)])).toEqual([]);
});

test("a quiet run is void, and one without a kind of fault or a way to take a lock", () => {
  const did = new Map([["wait", 3]]);
  const faults = new Set(["kill", "block"]);
  const facts = {
    acquires: 500,
    seconds: 60,
    floor: 5,
    samples: 3_000,
    kinds: ["kill", "block"],
    faults,
    did,
  };
  const ways = ["wait"];
  expect(voidBecause({ ...facts, ways })).toEqual([]);
  expect(voidBecause({ ...facts, ways, acquires: 100 })).toHaveLength(1);
  expect(voidBecause({ ...facts, ways, samples: 20 })).toHaveLength(1);
  expect(voidBecause({ ...facts, ways, faults: new Set(["block"]) })).toEqual(["no fault of the kind kill"]);
  expect(voidBecause({ ...facts, ways: ["wait", "try"] })).toEqual(["nobody came to try"]);
});
