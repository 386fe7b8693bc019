import { setTimeout as delay } from "node:timers/promises";
import { beforeAll, expect, test, vi } from "vitest";
import { endHolders, listLocks, lockId, type PostgresLocker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { advisoryLocks, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { createTurns, enter, leave } from "../support/turns.ts";
import { until } from "../support/until.ts";

// Beside services that use the Go package, whose algorithms are in test/support/programs/go-service.mjs. docs/go.md says what is tested
// here about Go.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

const pool = createPool();

beforeAll(() => pool.query(createTurns));

function start(how: "with-lock" | "acquire", key: string, name: string, { work = 0, turns = 1 } = {}): Child {
  const args = [how, lockId(0, key).toString(), name, `${work}`, `${turns}`];
  return Child.start("go-service.mjs", {
    args,
    env: { DATABASE_URL: databaseUrl(), ENTER: enter, LEAVE: leave },
  });
}

/** Takes a turn with a locker of ours: writes its name down, and works. */
async function takeTurn(locker: PostgresLocker, key: string, name: string, work = 0): Promise<void> {
  await locker.withLock(
    key,
    async (lock) => {
      await pool.query(enter, [lock.id.toString(), name]);
      await delay(work);
      await pool.query(leave, [lock.id.toString()]);
    },
    { wait: true },
  );
}

/** Processes of ours that want the lock again and again. */
class TakingTurns implements AsyncDisposable {
  readonly names: readonly string[];
  readonly #running: Promise<void>;
  #isEnough = false;

  constructor(key: string, names: readonly string[]) {
    this.names = names;
    this.#running = Promise.all(names.map((name) => this.#run(key, name))).then(() => {});
  }

  async #run(key: string, name: string): Promise<void> {
    await using locker = createLocker();
    while (!this.#isEnough) await takeTurn(locker, key, name, 2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnough = true;
    await this.#running;
  }
}

interface Turn {
  readonly name: string;
  readonly holders: number;
}

async function turnsOf(key: string): Promise<Turn[]> {
  const { rows } = await pool.query<Turn>("select name, holders from turns where id = $1 order by at", [
    lockId(0, key).toString(),
  ]);
  return rows;
}

const waiters = (key: string, count: number) =>
  until(
    async () => {
      const locks = await advisoryLocks();
      return locks.filter(({ id, granted }) => id === lockId(0, key) && !granted).length >= count;
    },
    { deadline: 20_000 },
  );

test("the server grants in order of arrival, and a call that only tries comes last", async () => {
  const key = uniqueKey();
  await using one = createLocker();
  await using two = createLocker();
  const held = await one.acquire(key);
  await using poller = start("acquire", key, "Go, trying");
  await poller.message(({ refused }) => refused === true);
  await using first = start("with-lock", key, "Go, first");
  await waiters(key, 1);
  const ours = takeTurn(two, key, "ours");
  await waiters(key, 2);
  await using last = start("with-lock", key, "Go, last");
  await waiters(key, 3);
  expect(await one.tryAcquire(key)).toBeUndefined();
  await held.release();
  await ours;
  for (const child of [poller, first, last]) expect(await child.exited).toEqual({ code: 0, signal: null });
  expect((await turnsOf(key)).map(({ name }) => name)).toEqual([
    "Go, first",
    "ours",
    "Go, last",
    "Go, trying",
  ]);
});

test("one holds at a time; waiters have their share, triers have what is left", async () => {
  const key = uniqueKey();
  const queueing = { work: 2, turns: Number.POSITIVE_INFINITY };
  await using goOne = start("with-lock", key, "Go, 1", queueing);
  await using goTwo = start("with-lock", key, "Go, 2", queueing);
  for (const child of [goOne, goTwo]) await child.message(({ turn }) => turn === 2);
  await using ours = new TakingTurns(key, ["ours, 1", "ours, 2"]);
  await using tries = start("acquire", key, "Go, trying", queueing);
  const queue = ["Go, 1", "Go, 2", ...ours.names];
  const counted = async () => {
    const turns = await turnsOf(key);
    const times = (name: string) => turns.filter((turn) => turn.name === name).length;
    return { turns, least: Math.min(...queue.map(times)), trying: times("Go, trying") };
  };
  await tries.message(({ refused }) => refused === true);
  const { turns, least, trying } = await until(
    async () => {
      const count = await counted();
      return count.least >= 20 && count;
    },
    { deadline: 30_000 },
  );
  expect(turns.filter(({ holders }) => holders !== 1)).toEqual([]);
  // Once all four are there, each of them gets a turn between two turns of another. A busy machine may be late for some.
  for (const name of queue) {
    const at = turns.flatMap((turn, place) => (turn.name === name ? [place] : [])).slice(3);
    const gaps = at.slice(1).map((place, nth) => place - (at[nth] ?? 0));
    gaps.sort((a, b) => a - b);
    expect(gaps[Math.floor(gaps.length / 2)], name).toBeLessThanOrEqual(8);
  }
  expect(trying).toBeLessThan(least);
  // Nobody queues any more, so it gets its turns.
  await ours[Symbol.asyncDispose]();
  await goOne[Symbol.asyncDispose]();
  await goTwo[Symbol.asyncDispose]();
  await until(async () => (await counted()).trying > trying + 2, { deadline: 15_000 });
});

test("a lock left by a Release with a cancelled context is seen and ended", async () => {
  const key = uniqueKey();
  await using locker = createLocker();
  await using go = start("acquire", key, "Go", { work: 60_000 });
  await go.message(({ turn }) => turn === 1);
  go.send({ cancel: true });
  await go.message(({ released }) => released === true);
  expect(await locker.tryAcquire(key)).toBeUndefined();
  const id = lockId(0, key);
  const left = await listLocks(pool, { id });
  expect(left).toMatchObject([{ state: "held", sessionState: "idle", pid: (await holdersOf(id))[0] }]);
  await endHolders(pool, { id, pids: left.flatMap(({ pid }) => pid ?? []) });
  await (await locker.acquire(key, { wait: "10s" })).release();
});

test("a WithLock that is cancelled frees the lock while its function still runs", async () => {
  const key = uniqueKey();
  await using locker = createLocker();
  await using go = start("with-lock", key, "Go", { work: 60_000 });
  await go.message(({ turn }) => turn === 1);
  const ours = takeTurn(locker, key, "ours");
  await waiters(key, 1);
  go.send({ cancel: true });
  await ours;
  expect(await turnsOf(key)).toEqual([
    { name: "Go", holders: 1 },
    { name: "ours", holders: 2 },
  ]);
});
