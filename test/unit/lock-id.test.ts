import { randomBytes, randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { EmptyKeyError, InvalidConfigError, InvalidKeyError, lockId } from "../../src/index.ts";

interface Vector {
  readonly namespace: number;
  readonly key: string;
  readonly id: string;
}

const vectors = JSON.parse(
  readFileSync(new URL("../vectors/lock-ids.json", import.meta.url), "utf8"),
) as Vector[];

test.each(vectors.map((vector, index) => ({ index, ...vector })))(
  "vector $index: namespace $namespace has the id $id, as in Go",
  ({ namespace, key, id }) => {
    expect(lockId(namespace, key)).toBe(BigInt(id));
  },
);

test("the vectors hold two keys that share an id", () => {
  const ids = vectors.map(({ namespace, id }) => `${namespace} ${id}`);
  expect(new Set(vectors.map(({ id }) => id)).size).toBeLessThan(ids.length);
});

test("an id is the same as FNV-1a 64 computed plainly", () => {
  for (let round = 0; round < 500; round += 1) {
    const namespace = randomBytes(4).readInt32BE();
    const key = randomKey();
    expect(lockId(namespace, key), JSON.stringify({ namespace, key })).toBe(plainFnv(namespace, key));
  }
});

test("an id of a key of a megabyte is the same as computed plainly", () => {
  const key = "x".repeat(1024 * 1024);
  expect(lockId(3, key)).toBe(plainFnv(3, key));
});

test("an id survives the two 32-bit halves that pg_locks shows of it", () => {
  for (const { namespace, key } of vectors) {
    const id = lockId(namespace, key);
    const classid = BigInt.asUintN(32, id >> 32n);
    const objid = BigInt.asUintN(32, id);
    expect(BigInt.asIntN(64, (classid << 32n) | objid)).toBe(id);
  }
});

test("keys are taken as they are: not normalised, not trimmed, case kept", () => {
  const keys = ["\u00e9", "e\u0301", "a", "A", " a", "a ", "a\0"];
  expect(new Set(keys.map((key) => lockId(0, key))).size).toBe(keys.length);
});

describe("an invalid key or namespace is refused:", () => {
  test.each([
    ["a high surrogate alone", "\ud800"],
    ["a low surrogate alone", "\udc00"],
    ["a pair the wrong way round", "a\udc00\ud800b"],
    ["a pair cut in two", "\ud83d\udd12".slice(0, 1)],
    ["a number", 42 as never],
    ["undefined", undefined as never],
    ["a String object", Object("k") as never],
  ])("%s as a key", (_, key: string) => {
    expect(() => lockId(0, key)).toThrow(InvalidKeyError);
  });

  test("an empty key", () => {
    expect(() => lockId(0, "")).toThrow(EmptyKeyError);
  });

  test.each([1.5, Number.NaN, 2 ** 31, -(2 ** 31) - 1, "7" as never, 7n as never, null as never])(
    "%s as a namespace",
    (namespace: number) => {
      expect(() => lockId(namespace, "k")).toThrow(InvalidConfigError);
    },
  );
});

function randomKey(): string {
  const ranges = [0x7f, 0x7ff, 0xd7ff, 0x10_ffff];
  let key = "";
  for (let length = randomInt(1, 40); length > 0; length -= 1) {
    const codePoint = randomInt(0, (ranges[randomInt(ranges.length)] ?? 0) + 1);
    key += codePoint >= 0xd800 && codePoint <= 0xdfff ? "?" : String.fromCodePoint(codePoint);
  }
  return key;
}

function plainFnv(namespace: number, key: string): bigint {
  const head = Buffer.alloc(4);
  head.writeInt32BE(namespace);
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.concat([head, Buffer.from(key, "utf8")])) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return BigInt.asIntN(64, hash);
}
