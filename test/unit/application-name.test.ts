import { expect, test } from "vitest";
import { applicationName } from "../../src/postgres/application-name.ts";

test.each([
  [0, "invoice:42", "pg-locker 0 invoice:42"],
  [-2147483648, "k", "pg-locker -2147483648 k"],
  [7, "100%", "pg-locker 7 100%25"],
  [7, "é", "pg-locker 7 %C3%A9"],
  [7, "🔒", "pg-locker 7 %F0%9F%94%92"],
  [7, "a\tb\0", "pg-locker 7 a%09b%00"],
  [7, " ~", "pg-locker 7  ~"],
])("the application name of namespace %d and key %j is %j", (namespace, key, expected) => {
  expect(applicationName(namespace, key)).toBe(expected);
});

test("an application name has 63 bytes at most, and is cut at a whole character", () => {
  expect(applicationName(0, "x".repeat(1_000_000))).toBe(`pg-locker 0 ${"x".repeat(51)}`);
  // 51 bytes are left: four characters of 12 each.
  expect(applicationName(0, "🔒".repeat(9))).toBe(`pg-locker 0 ${"%F0%9F%94%92".repeat(4)}`);
});

test("an application name stops at the first character that doesn't fit", () => {
  const key = `${"x".repeat(50)}éy`;
  expect(applicationName(0, key)).toBe(`pg-locker 0 ${"x".repeat(50)}`);
});

test("an application name that is not cut decodes to the key", () => {
  const key = "naïve-ключ %";
  expect(decodeURIComponent(applicationName(0, key).slice("pg-locker 0 ".length))).toBe(key);
});
