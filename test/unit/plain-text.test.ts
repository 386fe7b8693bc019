import { expect, test } from "vitest";
import { plain, plainJson, quote, shortened } from "../../src/contract/plain-text.ts";
import { InvalidConfigError, LockExpiredError, LockNotAcquiredError } from "../../src/index.ts";

/** Escape sequences for a terminal in both forms, a deletion, a change of the direction, a line separator, an invisible letter. */
const hostile = "\u001b[2J \u009b2J \u007f \u202e \u2028 \u{e0041}";
const escaped = "\\u001b[2J \\u009b2J \\u007f \\u202e \\u2028 \\u{e0041}";

test("a text from outside is a line without characters that would move the cursor", () => {
  expect(plain(hostile)).toBe(escaped);
  expect(plain("a\nb")).toBe("a\\u000ab");
});

test("JSON means the same without them, and keeps its lines", () => {
  const json = plainJson(JSON.stringify({ key: hostile }, undefined, 2));
  expect(json).toMatch(/^[ -~\n]+$/);
  expect(json.split("\n")).toHaveLength(3);
  expect(JSON.parse(json)).toEqual({ key: hostile });
});

test("the texts of errors escape them in keys and fields", () => {
  expect(quote(hostile)).toBe(`"${escaped}"`);
  const errors = [
    new LockNotAcquiredError({ key: hostile, reason: "id-collision", otherKey: hostile }),
    new LockExpiredError({ key: hostile, ttl: 1 }),
    new InvalidConfigError({ field: hostile, got: hostile, wants: "absent" }),
  ];
  for (const { message } of errors) expect(message).toMatch(/^[ -~]+$/);
});

test.each([
  ["the key", (text: string) => new LockExpiredError({ key: text, ttl: 1 })],
  [
    "another key",
    (text: string) => new LockNotAcquiredError({ key: "k", reason: "id-collision", otherKey: text }),
  ],
  ["an unknown option", (text: string) => new InvalidConfigError({ field: text, got: 1, wants: "absent" })],
  ["a number", () => new InvalidConfigError({ field: "a", got: 10n ** 99_999n, wants: "less" })],
  ["a symbol", (text: string) => new InvalidConfigError({ field: "a", got: Symbol(text), wants: "less" })],
])("an error shows of 100 kB only the beginning and the length: %s", (_, errorOf) => {
  const { message } = errorOf("x".repeat(100_000));
  expect(message.length).toBeLessThan(300);
  expect(message).toMatch(/…"? \(1000\d\d characters\)/);
});

test("a text is not shortened within a character, nor if it is just short enough", () => {
  expect(shortened("x".repeat(100))).toBe("x".repeat(100));
  const faces = "😀".repeat(100);
  expect(shortened(`a${faces}`)).toBe(`a${"😀".repeat(49)}… (201 characters)`);
  expect(shortened(faces)).toBe(`${"😀".repeat(49)}… (200 characters)`);
});
