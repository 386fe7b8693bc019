import {
  ConsecutiveBreaker,
  circuitBreaker,
  fallback,
  handleAll,
  TimeoutStrategy,
  timeout,
  wrap,
} from "cockatiel";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  type CircuitBreaker,
  CircuitOpenError,
  createCircuitBreaker,
  InvalidConfigError,
} from "../../src/index.ts";
import { throughBreaker } from "../../src/runtime/circuit-breaker.ts";

async function run(breaker: CircuitBreaker, outcomes: readonly ("ok" | "fail")[]): Promise<void> {
  for (const outcome of outcomes) {
    await throughBreaker(breaker, async () => {
      if (outcome === "fail") throw new Error("down");
    }).catch((error: unknown) => {
      if (error instanceof CircuitOpenError) throw error;
    });
  }
}

async function isOpen(breaker: CircuitBreaker): Promise<boolean> {
  let called = false;
  await throughBreaker(breaker, async () => {
    called = true;
  }).catch(() => {});
  return !called;
}

const times = <T>(count: number, outcome: T): T[] => Array<T>(count).fill(outcome);

describe("the default breaker", () => {
  test("opens when all of twenty samples failed, and not before", async () => {
    const breaker = createCircuitBreaker();
    await run(breaker, times(19, "fail"));
    // The probe would be a success among the samples: the twentieth failure opens it instead.
    await run(breaker, ["fail"]);
    expect(await isOpen(breaker)).toBe(true);
  });

  test("stays closed with nineteen failures", async () => {
    const breaker = createCircuitBreaker();
    await run(breaker, times(19, "fail"));
    expect(await isOpen(breaker)).toBe(false);
  });

  test("stays closed with one success among the failures", async () => {
    const breaker = createCircuitBreaker();
    await run(breaker, ["ok", ...times(40, "fail" as const)]);
    expect(await isOpen(breaker)).toBe(false);
  });
});

test("with an error rate of 50, half of the samples open it", async () => {
  const breaker = createCircuitBreaker({ errorRate: 50, minimumSamples: 4 });
  await run(breaker, ["ok", "ok", "fail", "fail"]);
  expect(await isOpen(breaker)).toBe(true);
});

test("with an error rate of 50, less than half leave it closed", async () => {
  const breaker = createCircuitBreaker({ errorRate: 50, minimumSamples: 4 });
  await run(breaker, ["ok", "ok", "ok", "fail", "fail"]);
  expect(await isOpen(breaker)).toBe(false);
});

test.each([1, 2, 3, 7, 20, 100])("with minimumSamples %i, that many failures open it", async (samples) => {
  for (const openAfter of ["100ms", "1s", "10s", "7m"]) {
    const [below, at] = [1, 2].map(() => createCircuitBreaker({ minimumSamples: samples, openAfter }));
    await run(below as CircuitBreaker, times(samples - 1, "fail"));
    expect(await isOpen(below as CircuitBreaker)).toBe(false);
    if (openAfter === "100ms") continue; // The window may pass on the way.
    await run(at as CircuitBreaker, times(samples, "fail"));
    expect(await isOpen(at as CircuitBreaker), openAfter).toBe(true);
  }
});

describe("the default breaker, as time passes", () => {
  beforeEach(() => {
    vi.useFakeTimers();
    // In the middle of its spread.
    vi.spyOn(Math, "random").mockReturnValue(0.5);
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  const opened = async () => {
    const breaker = createCircuitBreaker({ minimumSamples: 2 });
    await run(breaker, ["fail", "fail"]);
    return breaker;
  };

  test("refuses for half a second, then lets one operation through to try", async () => {
    const breaker = await opened();
    vi.advanceTimersByTime(499);
    expect(await isOpen(breaker)).toBe(true);
    vi.advanceTimersByTime(1);
    let answer: () => void = () => {};
    const probe = breaker.execute(() => new Promise<void>((resolve) => (answer = resolve)));
    expect(await isOpen(breaker)).toBe(true);
    answer();
    await probe;
    expect(await isOpen(breaker)).toBe(false);
    // Nothing is left of the earlier counts.
    await run(breaker, ["ok", "fail", "fail", "fail"]);
    expect(await isOpen(breaker)).toBe(false);
  });

  test("waits longer after each probe that failed, a minute at most", async () => {
    const breaker = await opened();
    const waits: number[] = [];
    for (let probes = 0; probes < 14; probes += 1) {
      let waited = 0;
      let probed = false;
      while (!probed) {
        vi.advanceTimersByTime(50);
        waited += 50;
        await breaker
          .execute(async () => {
            probed = true;
            throw new Error("still down");
          })
          .catch(() => {});
      }
      waits.push(waited);
    }
    expect(waits.slice(0, 4)).toEqual([500, 750, 1_150, 1_700]);
    expect(waits.slice(-2)).toEqual([60_000, 60_000]);
  });

  test("forgets what is older than its window", async () => {
    const breaker = createCircuitBreaker({ minimumSamples: 4, openAfter: "10s" });
    await run(breaker, ["fail", "fail", "fail"]);
    vi.advanceTimersByTime(11_000);
    await run(breaker, ["fail", "fail", "fail"]);
    expect(await isOpen(breaker)).toBe(false);
  });

  test("a success that has left the window keeps it closed no longer", async () => {
    const breaker = createCircuitBreaker({ minimumSamples: 4, openAfter: "10s" });
    await run(breaker, ["ok"]);
    vi.advanceTimersByTime(11_000);
    await run(breaker, ["fail", "fail", "fail", "fail"]);
    expect(await isOpen(breaker)).toBe(true);
  });

  test("operations that began before it opened, and end later, change nothing", async () => {
    const breaker = createCircuitBreaker({ minimumSamples: 2 });
    let answer: () => void = () => {};
    const slow = breaker.execute(() => new Promise<void>((resolve) => (answer = resolve)));
    await run(breaker, ["fail", "fail"]);
    answer();
    await slow;
    expect(await isOpen(breaker)).toBe(true);
  });

  test("says that it refused, and why", async () => {
    const breaker = await opened();
    await expect(throughBreaker(breaker, async () => {})).rejects.toThrow(
      "The circuit breaker refused: the circuit is open",
    );
  });
});

describe("through any object with execute(fn)", () => {
  const plain: CircuitBreaker = { execute: (fn) => fn() };

  class Refusing implements CircuitBreaker {
    readonly error: unknown;
    constructor(error: unknown) {
      this.error = error;
    }
    async execute<T>(): Promise<T> {
      throw this.error;
    }
  }

  test("an answer comes through", async () => {
    expect(await throughBreaker(plain, async () => 42)).toBe(42);
    expect(await throughBreaker(undefined, async () => 42)).toBe(42);
  });

  test("a failure of the operation comes through as it is", async () => {
    const failure = new Error("down");
    const fails = () => Promise.reject(failure);
    await expect(throughBreaker(plain, fails)).rejects.toBe(failure);
    await expect(throughBreaker(createCircuitBreaker(), fails)).rejects.toBe(failure);
  });

  test("a refusal becomes a CircuitOpenError, with the breaker's own error as its cause", async () => {
    const refusal = new Error("open until noon");
    let called = false;
    const refused = throughBreaker(new Refusing(refusal), async () => {
      called = true;
    });
    await expect(refused).rejects.toThrow(CircuitOpenError);
    await expect(refused).rejects.toMatchObject({
      message: "The circuit breaker refused: open until noon",
      cause: refusal,
    });
    expect(called).toBe(false);
  });

  test("a breaker that throws synchronously, or throws no error, refuses as well", async () => {
    const synchronous = {
      execute(): never {
        throw new RangeError("no");
      },
    };
    await expect(throughBreaker(synchronous, async () => {})).rejects.toThrow(CircuitOpenError);
    await expect(throughBreaker(new Refusing("no"), async () => {})).rejects.toThrow(CircuitOpenError);
  });
});

describe("policies of cockatiel other than its breaker", () => {
  test("a time-out changes no outcome, and is a failure for the breaker around it", async () => {
    const patience = timeout(1, TimeoutStrategy.Aggressive);
    const breaker = wrap(
      circuitBreaker(handleAll, { halfOpenAfter: 60_000, breaker: new ConsecutiveBreaker(1) }),
      patience,
    );
    const late = throughBreaker(
      breaker,
      () => new Promise((resolve) => patience.onTimeout(() => setImmediate(resolve, "granted"))),
    );
    expect(await late).toBe("granted");
    expect(await isOpen(breaker)).toBe(true);
  });

  test("a fallback doesn't replace an answer", async () => {
    const open = wrap(fallback(handleAll, "made up"), {
      execute: () => Promise.reject(new Error("open")),
    } as never);
    await expect(throughBreaker(open, async () => "granted")).rejects.toThrow(CircuitOpenError);
    const failure = new Error("down");
    const closed = fallback(handleAll, "made up");
    await expect(throughBreaker(closed as CircuitBreaker, () => Promise.reject(failure))).rejects.toBe(
      failure,
    );
  });
});

test("an option out of range is refused with its name, its value and what is wanted", () => {
  const messages = [
    { errorRate: 0 },
    { errorRate: 101 },
    { errorRate: Number.NaN },
    { errorRate: "50" },
    { minimumSamples: 0 },
    { minimumSamples: 1.5 },
    { minimumSamples: "5" },
    { minimumSamples: Number.POSITIVE_INFINITY },
    { openAfter: "99ms" },
    { openAfter: "-1s" },
    { openAfter: "5" },
    { openAfter: Number.POSITIVE_INFINITY },
    { errorrate: 50 },
    null,
  ].map((options) => {
    try {
      createCircuitBreaker(options as never);
    } catch (error) {
      expect(error).toBeInstanceOf(InvalidConfigError);
      return (error as Error).message;
    }
    return `accepted: ${JSON.stringify(options)}`;
  });
  expect(messages).toMatchInlineSnapshot(`
    [
      "Expected \`errorRate\` to be a percentage from 1 to 100, got \`0\` (number)",
      "Expected \`errorRate\` to be a percentage from 1 to 100, got \`101\` (number)",
      "Expected \`errorRate\` to be a percentage from 1 to 100, got \`NaN\` (number)",
      "Expected \`errorRate\` to be a percentage from 1 to 100, got \`"50"\` (string)",
      "Expected \`minimumSamples\` to be a whole number from 1 up, got \`0\` (number)",
      "Expected \`minimumSamples\` to be a whole number from 1 up, got \`1.5\` (number)",
      "Expected \`minimumSamples\` to be a whole number from 1 up, got \`"5"\` (string)",
      "Expected \`minimumSamples\` to be a whole number from 1 up, got \`Infinity\` (number)",
      "Expected \`openAfter\` to be a duration of at least 100 ms, such as "10s", got \`"99ms"\` (string)",
      "Expected \`openAfter\` to be a duration of at least 100 ms, such as "10s", got \`"-1s"\` (string)",
      "Expected \`openAfter\` to be a duration of at least 100 ms, such as "10s", got \`"5"\` (string)",
      "Expected \`openAfter\` to be a duration of at least 100 ms, such as "10s", got \`Infinity\` (number)",
      "Expected \`errorrate\` to be absent: the options are errorRate, minimumSamples and openAfter, got \`50\` (number)",
      "Expected \`options\` to be an object, got \`null\`",
    ]
  `);
});
