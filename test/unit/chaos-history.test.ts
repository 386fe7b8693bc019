import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import { History } from "../../chaos/history.mjs";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import { Journal } from "../../chaos/journal.mjs";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import type { Claim, Sample, Span } from "../../chaos/judge.mjs";

let folder: string;
let judged: Claim[];
let spans: Span[];
let seen: number[];
let lates: number[][];
let told: string[];
let committed: Set<string>;
let history: History;
let time: number;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "pg-locker-history-"));
  [judged, spans, seen, lates, told, committed, time] = [[], [], [], [], [], new Set(), 10_000];
  history = new History({
    keys: [{ name: "j" }, { name: "k" }],
    keep: false,
    now: () => time,
    judge: {
      claim: (claim) => void judged.push(claim),
      span: (span) => void spans.push(span),
      late: ({ start, end }) => void lates.push([start, end]),
      sample: ({ from }) => void seen.push(from),
      transaction: ({ how, isThere }) => void told.push(`${how}, ${isThere}`),
    },
    committed: async (ids) => new Set(ids.filter((id) => committed.has(id))),
  });
});

afterEach(() => rmSync(folder, { recursive: true }));

function life(worker: number): { journal: Journal; ends: () => void } {
  const path = join(folder, `journal-${worker}`);
  const ends = history.life({ worker, journal: path, writer: `${worker}` });
  return { journal: new Journal(path), ends };
}

function sample(from: number): Sample {
  return { from, to: from + 1, rows: new Map() };
}

test("a claim lasts from the first to the last time that the lock was held", () => {
  const { journal } = life(3);
  const how = "exclusive";
  const token = (2n << 48n) + 5n;
  journal.note("claim", { how, key: 1, of: 1, at: 100, since: 90, token, ttl: 500 });
  journal.tick(110);
  journal.note("held", { of: 1, at: 112 });
  journal.note("over", { of: 1, at: 114 });
  journal.tick(200);
  journal.note("end", { of: 1, how: "released" });
  journal.tick(210);
  history.advance();
  const facts = { worker: 3, key: "k", mode: "exclusive", ttl: 500, token, timeline: 2 };
  expect(judged).toMatchObject([{ ...facts, asked: 90, start: 100, end: 114, why: "released" }]);
});

test("the claims of a worker that was killed end with its last line", () => {
  const { journal, ends } = life(1);
  journal.note("claim", { how: "shared", key: 0, of: 1, at: 100, since: 90 });
  journal.note("claim", { how: "exclusive", key: 1, of: 2, at: 101, since: 90 });
  journal.note("over", { of: 1, at: 103 });
  journal.tick(105);
  ends();
  history.advance();
  expect(judged).toMatchObject([
    { key: "j", mode: "shared", start: 100, end: 103, why: "cut short" },
    { key: "k", mode: "exclusive", start: 101, end: 105, why: "cut short" },
  ]);
});

test("claims are judged in order of their begin, samples after what they may show", () => {
  const [one, two] = [life(1).journal, life(2).journal];
  one.note("claim", { how: "exclusive", of: 1, at: 100 });
  two.note("claim", { how: "exclusive", of: 1, at: 120 });
  two.note("over", { of: 1, at: 130 });
  two.note("end", { of: 1, how: "released" });
  for (const from of [90, 110, 140, 160]) history.sample(sample(from));
  one.tick(150);
  two.tick(155);
  history.advance();
  // The first worker is held still.
  expect([judged, seen]).toEqual([[], [90]]);
  one.note("over", { of: 1, at: 151 });
  one.note("end", { of: 1, how: "lost" });
  history.advance();
  expect(judged.map(({ start }) => start)).toEqual([100, 120]);
  // The first worker hasn't said anything for a while: it may have begun to hold something in the meantime.
  expect(seen).toEqual([90, 110, 140]);
  one.tick(200);
  two.tick(200);
  history.advance();
  expect(seen).toEqual([90, 110, 140, 160]);
});

test("a transaction is a claim if the database has it, and the others wait for that", async () => {
  const { journal } = life(1);
  for (const of of [1, 2, 3]) {
    journal.note("entered", { of, key: 1, at: 100 * of, since: 90, ttl: 500, more: 7 });
    journal.note("left", { of, at: 100 * of + 30 });
  }
  journal.note("outcome", { of: 1, how: "committed", at: 140 });
  journal.note("outcome", { of: 2, how: "unknown", at: 240 });
  journal.note("outcome", { of: 3, how: "not committed", at: 340 });
  journal.note("claim", { how: "exclusive", of: 9, at: 350 });
  journal.note("over", { of: 9, at: 360 });
  journal.note("end", { of: 9, how: "released" });
  journal.tick(400);
  committed = new Set(["1-1", "1-2"]);
  history.advance();
  expect(judged).toEqual([]);
  await new Promise(setImmediate);
  history.advance();
  await new Promise(setImmediate);
  history.advance();
  expect(judged).toMatchObject([
    { start: 100, end: 130, why: "committed", timeline: 7, token: undefined },
    { start: 200, end: 230, why: "committed" },
    { start: 350, why: "released" },
  ]);
  expect(told.sort()).toEqual(["committed, true", "not committed, false", "unknown, true"]);
});

test("a transaction without an answer is looked up once nothing of it is under way", async () => {
  const { journal } = life(1);
  journal.note("entered", { of: 1, at: 9_000, since: 8_990 });
  journal.note("outcome", { of: 1, how: "unknown", at: 9_100 });
  journal.tick(9_999);
  history.advance();
  await new Promise(setImmediate);
  expect(told).toEqual([]);
  time += 3_000;
  history.advance();
  await new Promise(setImmediate);
  expect(told).toEqual(["unknown, false"]);
});

test("a worker's counts, complaints and writes are taken over", () => {
  const { journal } = life(1);
  journal.count("try");
  journal.count("try");
  journal.wrong("nonsense");
  journal.note("claim", { how: "exclusive", of: 1, at: 100 });
  journal.note("put", { of: 1, how: "refused", since: 105, at: 106 });
  journal.note("put", { of: 1, how: "accepted", since: 107, at: 108 });
  journal.note("pending", { of: 5, key: 1, at: 101 });
  journal.note("settled", { of: 5, at: 104 });
  journal.note("unclaimed", { key: 0, at: 106 });
  journal.note("over", { of: 1, at: 110 });
  journal.note("end", { of: 1, how: "expired" });
  journal.tick(120);
  journal.tick(300);
  history.advance();
  expect(Object.fromEntries(history.did)).toEqual({ try: 2, "write refused": 1, "write accepted": 1 });
  expect(history.wrong).toEqual(["worker 1: nonsense"]);
  expect(judged).toMatchObject([{ refused: [{ from: 105, to: 106 }] }]);
  expect(lates).toEqual([[170, 300]]);
  expect(spans).toMatchObject([
    { worker: 1, key: "k", start: 101, end: 104 },
    { worker: 1, key: "j", start: 106, end: 106 },
  ]);
});
