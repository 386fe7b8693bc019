import { randomBytes, randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { keyText } from "../../src/contract/lock-id.ts";
import { keyBytes } from "../../src/contract/lock-key.ts";
import { EmptyKeyError, InvalidConfigError, InvalidKeyError, lockId, sha256LockId } from "../../src/index.ts";
import { applicationName, named } from "../../src/postgres/application-name.ts";

interface Vector {
  readonly namespace: number;
  readonly keyHex: string;
  readonly id: string;
}

const vectors = JSON.parse(
  readFileSync(new URL("../vectors/lock-ids-of-bytes.json", import.meta.url), "utf8"),
) as Vector[];

test.each(vectors)("bytes $keyHex in namespace $namespace have the id $id, as in Go", (vector) => {
  expect(lockId(vector.namespace, Buffer.from(vector.keyHex, "hex"))).toBe(BigInt(vector.id));
});

describe("a key as it is shown", () => {
  test.each([
    ["of bytes that are UTF-8, is what they encode", Buffer.from("naïve 🔒"), "naïve 🔒"],
    ["keeps a byte order mark", Buffer.from("\ufeffk"), "\ufeffk"],
    ["has each other byte as a surrogate of its own", Buffer.from("a\xff\xfe", "latin1"), "a\udcff\udcfe"],
    ["has a surrogate that was encoded as three", Buffer.from([0xed, 0xa0, 0x80]), "\udced\udca0\udc80"],
    ["has a character that is cut as its bytes", Buffer.from("🔒").subarray(0, 3), "\udcf0\udc9f\udc94"],
    ["of a part of a buffer, is that part", Buffer.from("xxkeyxx").subarray(2, 5), "key"],
  ])("%s", (_, bytes, shown) => {
    expect(keyText(bytes)).toBe(shown);
    expect(keyText(Uint8Array.from(bytes))).toBe(shown);
    expect(Buffer.from(keyBytes(shown))).toEqual(bytes);
  });

  test("differs for every other key", () => {
    const shown = new Map<string, string>();
    for (let round = 0; round < 20_000; round += 1) {
      // Bytes that make up every kind of character, whole and broken.
      const some = [0x61, 0x80, 0xbf, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xf0, 0x9f, 0x94, 0x92, 0xff];
      const bytes = Buffer.from(
        Array.from({ length: randomInt(1, 6) }, () => some[randomInt(some.length)] ?? 0),
      );
      const hex = bytes.toString("hex");
      const text = keyText(bytes);
      expect(shown.get(text) ?? hex, JSON.stringify(text)).toBe(hex);
      shown.set(text, hex);
      expect(Buffer.from(keyBytes(text)).toString("hex")).toBe(hex);
    }
  });

  test("reads back from the name of a session", () => {
    const bytes = Buffer.concat([Buffer.from("caf"), Buffer.of(0xe9), Buffer.from("% é")]);
    const name = applicationName(7, keyText(bytes));
    expect(name).toBe("pg-locker 7 caf%E9%25 %C3%A9");
    expect(named(name)?.key).toBe(keyText(bytes));
  });
});

test("bytes of another realm are bytes", () => {
  const bytes = runInNewContext("new Uint8Array([107])") as Uint8Array;
  expect(lockId(0, bytes)).toBe(lockId(0, "k"));
});

test("a key of a megabyte of bytes has the id of the string that they encode", () => {
  const key = "é".repeat(512 * 1024);
  expect(lockId(3, Buffer.from(key))).toBe(lockId(3, key));
});

test.each([
  [[107]],
  [new Uint16Array([107])],
  [new Uint8Array([107]).buffer],
  [new DataView(new ArrayBuffer(1))],
])("%o is not a key", (key) => {
  expect(() => lockId(0, key as never)).toThrow(InvalidKeyError);
  expect(() => sha256LockId(0, key as never)).toThrow(InvalidKeyError);
});

test("an array of no bytes is an empty key", () => {
  expect(() => lockId(0, new Uint8Array())).toThrow(EmptyKeyError);
});

describe("sha256LockId", () => {
  test.each([
    // printf '\0\0\0\7invoice:42' | sha256sum
    [7, "invoice:42", 0x7a1dc51e37a5358fn],
    [-1, Buffer.of(0xff), 0x132369a3b7f24fa6n],
  ] as const)("of namespace %d and %o is what sha256sum says", (namespace, key, id) => {
    expect(sha256LockId(namespace, key)).toBe(id);
  });

  test("is the same for bytes as for the string that they encode", () => {
    expect(sha256LockId(7, Buffer.from("é"))).toBe(sha256LockId(7, "é"));
  });

  test("fits into 64 bits with a sign, both ways", () => {
    const ids = Array.from({ length: 100 }, () => sha256LockId(0, randomBytes(8).toString("hex")));
    for (const id of ids) expect(BigInt.asIntN(64, id)).toBe(id);
    expect(ids.some((id) => id < 0n) && ids.some((id) => id > 0n)).toBe(true);
  });

  test.each([1.5, 2 ** 31, "7" as never])("refuses %s as a namespace", (namespace) => {
    expect(() => sha256LockId(namespace, "k")).toThrow(InvalidConfigError);
  });
});
