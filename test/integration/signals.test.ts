import { runInNewContext } from "node:vm";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { AbortSignalLike, PostgresLocker } from "../../src/index.ts";
import { connect, uniqueId, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";

// A caller's signal: one of the platform, of another realm or of a polyfill; one for many callers, and one that misbehaves.

afterEach(() => vi.restoreAllMocks());

/** A signal as the packages `abort-controller` and `event-target-shim` make it: no reason, no options for a listener. */
class PolyfilledSignal implements AbortSignalLike {
  #aborted = false;
  readonly listeners = new Set<() => void>();
  get aborted(): boolean {
    return this.#aborted;
  }
  addEventListener(_type: "abort", listener: () => void): void {
    this.listeners.add(listener);
  }
  removeEventListener(_type: "abort", listener: () => void): void {
    this.listeners.delete(listener);
  }
  abort(): void {
    this.#aborted = true;
    for (const listener of [...this.listeners]) listener.call(this);
  }
}

interface Foreign {
  readonly signal: AbortSignalLike & { readonly listeners: Set<unknown>; readonly reason: unknown };
  abort(): void;
}

/** A signal made only of another realm's objects: nothing in it is an instance of a class of this realm. */
const foreignController = (): Foreign =>
  runInNewContext(`(() => {
    const listeners = new Set();
    const signal = {
      aborted: false, reason: undefined, listeners,
      addEventListener(type, listener) { listeners.add(listener); },
      removeEventListener(type, listener) { listeners.delete(listener); },
    };
    const abort = () => {
      signal.aborted = true;
      signal.reason = new Error("of another realm");
      for (const listener of [...listeners]) listener();
    };
    return { signal, abort };
  })()`);

/** A lock that somebody else holds until the end of the test. */
async function heldKey(locker: PostgresLocker): Promise<string> {
  const key = uniqueKey();
  await locker.acquire(key);
  return key;
}

describe("a signal is taken by its shape", () => {
  test("of a polyfill: it ends a wait with its own error, and keeps no listener", async () => {
    await using locker = createLocker();
    const key = await heldKey(locker);
    const signal = new PolyfilledSignal();
    const waiting = locker.acquire(key, { wait: true, signal });
    setTimeout(() => signal.abort(), 20);
    await expect(waiting).rejects.toMatchObject({ name: "AbortError" });
    expect(signal.listeners.size).toBe(0);
    await expect(locker.acquire(uniqueKey(), { signal })).rejects.toMatchObject({ name: "AbortError" });
    await expect(locker.ping({ signal })).rejects.toMatchObject({ name: "AbortError" });
    expect(signal.listeners.size).toBe(0);
  });

  test("of another realm: it ends a wait, with its own reason", async () => {
    await using locker = createLocker();
    const key = await heldKey(locker);
    const { signal, abort } = foreignController();
    const waiting = locker.acquire(key, { wait: true, signal });
    setTimeout(abort, 20);
    const error = await waiting.catch((reason: unknown) => reason);
    expect(error).toBe(signal.reason);
    expect(error).not.toBeInstanceOf(Error);
    expect(signal.listeners.size).toBe(0);
  });

  test("and given to acquireAll, withLock, withTransaction and refresh", async () => {
    await using locker = createLocker();
    const signal = new PolyfilledSignal();
    const group = await locker.acquireAll([uniqueKey(), uniqueKey()], { signal });
    await group.refresh("20s", { signal });
    await group.release();
    await locker.withLock(uniqueKey(), () => {}, { signal });
    await locker.withTransaction(uniqueKey(), () => {}, { signal });
    expect(signal.listeners.size).toBe(0);
  });

  test.each([
    ["a string", "abort"],
    ["an event emitter", { aborted: false, on() {} }],
    ["one that can't be listened to", { aborted: false, addEventListener() {} }],
    ["a controller", new AbortController()],
    ["null", null],
  ])("%s is not a signal", async (_, signal) => {
    await using locker = createLocker();
    await expect(locker.acquire(uniqueKey(), { signal: signal as never })).rejects.toMatchObject({
      name: "InvalidConfigError",
      message: expect.stringContaining("an AbortSignal"),
    });
  });
});

describe("one signal for many", () => {
  test("has one listener, and none in the end; no warning is printed", async () => {
    const warned = vi.spyOn(process, "emitWarning");
    await using locker = createLocker();
    const controller = new AbortController();
    const [adding, removing] = [
      vi.spyOn(controller.signal, "addEventListener"),
      vi.spyOn(controller.signal, "removeEventListener"),
    ];
    const locks = await Promise.all(
      Array.from({ length: 50 }, () =>
        locker.acquire(uniqueKey(), { signal: controller.signal, wait: "10s" }),
      ),
    );
    expect(adding).toHaveBeenCalledTimes(removing.mock.calls.length);
    expect(adding.mock.calls.length).toBeLessThanOrEqual(3);
    await Promise.all(locks.map((lock) => lock.release()));
    // The locker no longer listens.
    controller.abort();
    expect(warned.mock.calls.filter(([warning]) => String(warning).includes("MaxListeners"))).toEqual([]);
  });

  test("aborts all of them, also those of another locker, each with its reason", async () => {
    await using locker = createLocker();
    await using another = createLocker();
    const controller = new AbortController();
    const keys = await Promise.all([heldKey(locker), heldKey(another)]);
    const { signal } = controller;
    const waiting = Promise.allSettled(
      [locker, another].flatMap((each) =>
        keys.flatMap((key) => Array.from({ length: 20 }, () => each.acquire(key, { wait: true, signal }))),
      ),
    );
    await new Promise((resolve) => setTimeout(resolve, 50));
    const reason = new Error("shutdown");
    controller.abort(reason);
    const outcomes = await waiting;
    expect(outcomes.every((outcome) => outcome.status === "rejected" && outcome.reason === reason)).toBe(
      true,
    );
  });

  test("goes on for the others when one of them leaves, in whatever order", async () => {
    await using locker = createLocker();
    const key = await heldKey(locker);
    const { signal, abort } = foreignController();
    const waiting = (["20ms", true, "60ms", true] as const).map((wait) =>
      locker.acquire(key, { wait, signal }).catch((error: unknown) => error),
    );
    expect(await waiting[0]).toMatchObject({ reason: "wait-timeout" });
    expect(await waiting[2]).toMatchObject({ reason: "wait-timeout" });
    expect(signal.listeners.size).toBe(1);
    abort();
    expect(await Promise.all(waiting.filter((_, at) => at % 2 === 1))).toEqual([
      signal.reason,
      signal.reason,
    ]);
    expect(signal.listeners.size).toBe(0);
  });
});

describe("a signal that misbehaves leaves nothing behind", () => {
  test.each([0, 1, 2, 3, 4, 5, 6])(
    "it aborts in its own getter, when it is asked for time %i",
    async (at) => {
      await using locker = createLocker({ sessions: "dedicated" });
      let asked = 0;
      class Trap extends PolyfilledSignal {
        override get aborted(): boolean {
          asked += 1;
          if (asked === at + 1) for (const listener of [...this.listeners]) listener();
          return asked > at;
        }
      }
      const signal = new Trap();
      const outcome = await locker.acquire(uniqueKey(), { signal }).catch((error: unknown) => error);
      if (outcome instanceof Error) expect(outcome.name).toBe("AbortError");
      else await (outcome as { release(): Promise<void> }).release();
      expect(signal.listeners.size).toBe(0);
    },
  );

  test("it aborts as soon as it is listened to", async () => {
    await using locker = createLocker();
    class Eager extends PolyfilledSignal {
      override addEventListener(type: "abort", listener: () => void): void {
        super.addEventListener(type, listener);
        this.abort();
      }
    }
    const signal = new Eager();
    await expect(locker.acquire(uniqueKey(), { signal })).rejects.toMatchObject({ name: "AbortError" });
    expect(signal.listeners.size).toBe(0);
  });

  test("an acquire with it from its own abort listener is refused at once", async () => {
    await using locker = createLocker();
    const key = await heldKey(locker);
    const controller = new AbortController();
    const again: Promise<unknown>[] = [];
    controller.signal.addEventListener("abort", () => {
      again.push(
        locker.acquire(key, { wait: true, signal: controller.signal }).catch((error: unknown) => error),
      );
    });
    const waiting = locker.acquire(key, { wait: true, signal: controller.signal });
    setTimeout(() => controller.abort("enough"), 20);
    await expect(waiting).rejects.toBe("enough");
    expect(await Promise.all(again)).toEqual(["enough"]);
  });

  test("an abort while the server has the statement: what is granted is released", async () => {
    await using locker = createLocker();
    const session = await connect();
    for (let round = 0; round < 20; round += 1) {
      const controller = new AbortController();
      const acquiring = locker.acquire(`${uniqueId()}`, { signal: controller.signal });
      setTimeout(() => controller.abort(), round / 5);
      await acquiring.then(
        (lock) => lock.release(),
        () => {},
      );
    }
    await session.query("select 1");
  });
});
