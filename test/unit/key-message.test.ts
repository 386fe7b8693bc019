import { EventEmitter } from "node:events";
import { describe, expect, test } from "vitest";
import { keyBytes } from "../../src/contract/lock-key.ts";
import { lockId } from "../../src/index.ts";
import { named } from "../../src/postgres/application-name.ts";
import { keyMessages, readKeyMessage } from "../../src/postgres/key-message.ts";
import { hearNotifications } from "../../src/postgres/notifications.ts";

// What lockers tell each other about keys, in notifications that anybody may send.

const about = '"pid":7,"namespace":0,"more":0';

describe("a message about locks", () => {
  test("says what was written, in ASCII and in pieces", () => {
    const locks = Array.from({ length: 500 }, (_, at) => {
      const key = `${["é", "🔒", "\u0000", "\udcff"][at % 4]} "${at}" ${"x".repeat(at % 50)}`;
      return { key, id: at % 3 === 0 ? BigInt(-at) : lockId(-7, keyBytes(key)) };
    });
    const payloads = keyMessages(7, { namespace: -7, locks });
    expect(payloads.length).toBeGreaterThan(2);
    for (const payload of payloads) expect(payload).toMatch(/^[ -~]{1,7900}$/);
    const read = payloads.map((payload) => readKeyMessage(payload));
    expect(read.flatMap((message) => message?.locks)).toEqual(locks);
    expect(read.map((message) => message?.more)).toEqual(payloads.map((_, at) => payloads.length - 1 - at));
    expect(new Set(read.map((message) => `${message?.pid} ${message?.namespace}`))).toEqual(
      new Set(["7 -7"]),
    );
  });

  test("has no id that is the key's own", () => {
    const locks = [{ key: "k", id: lockId(0, "k") }];
    const [payload = ""] = keyMessages(7, { namespace: 0, locks });
    expect(payload).toBe(`{${about},"locks":["k"]}`);
    expect(readKeyMessage(payload)).toEqual({ pid: 7, namespace: 0, more: 0, locks });
  });

  test.each([
    ["nothing", ""],
    ["no JSON", "{"],
    ["null", "null"],
    ["a number", "7"],
    ["an array", "[]"],
    ["an empty object", "{}"],
    ["brackets without an end", "[".repeat(7_999)],
    ["nested brackets", `{${about},"locks":${"[".repeat(3_000)}${"]".repeat(3_000)}}`],
    ["no pid", '{"namespace":0,"more":0,"locks":["k"]}'],
    ["a pid that is too large", `{${about.replace("7", "4294967296")},"locks":["k"]}`],
    ["a namespace that is too large", `{${about.replace(":0", ":2147483648")},"locks":["k"]}`],
    ["a namespace that is huge", `{${about.replace(":0", ":9007199254740991")},"locks":["k"]}`],
    ["a namespace that is a fraction", `{${about.replace(":0", ":0.5")},"locks":["k"]}`],
    ["a namespace that is a text", `{${about.replace(":0", ':"0"')},"locks":["k"]}`],
    ["fewer than no more messages", `{${about.replace('more":0', 'more":-1')},"locks":["k"]}`],
    ["locks that are no array", `{${about},"locks":{"length":1}}`],
    ["a lock that is null", `{${about},"locks":[null]}`],
    ["a lock that is empty", `{${about},"locks":[[]]}`],
    ["an empty key", `{${about},"locks":[""]}`],
    ["an empty key with an id", `{${about},"locks":[["","7"]]}`],
    ["a lone surrogate that shows no byte", `{${about},"locks":["\\ud841"]}`],
    ["a surrogate that shows an ASCII byte", `{${about},"locks":["\\udc41"]}`],
    ["surrogates that show a character", `{${about},"locks":["\\udcc3\\udca9"]}`],
    ["an id that is a number", `{${about},"locks":[["k",7]]}`],
    ["an id that is no number", `{${about},"locks":[["k","seven"]]}`],
    ["an id that is too large", `{${about},"locks":[["k","9223372036854775808"]]}`],
    ["an id that is far too large", `{${about},"locks":[["k","${"9".repeat(5_000)}"]]}`],
  ])("is refused: %s", (_, payload) => {
    expect(readKeyMessage(payload)).toBeUndefined();
  });
});

test("whatever hears notifications may throw, and hears the next one", () => {
  const client = new EventEmitter();
  const heard: string[] = [];
  const end = hearNotifications(client, "mine", (payload) => {
    heard.push(payload);
    throw new Error("not understood");
  });
  client.emit("notification", { channel: "mine", payload: "one" });
  client.emit("notification", { channel: "another", payload: "two" });
  client.emit("notification", { channel: "mine" });
  expect(heard).toEqual(["one", ""]);
  end();
  expect(client.listenerCount("notification")).toBe(0);
});

test.each(["2147483648", "99999999999999999999", "-0", "007"])(
  "a session name with the namespace %s is not one of ours",
  (namespace) => {
    expect(named(`pg-locker ${namespace} k`)).toBeUndefined();
    expect(named("pg-locker -2147483648 k")).toMatchObject({ namespace: -2147483648, key: "k" });
  },
);
