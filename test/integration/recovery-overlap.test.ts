import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Lock, PostgresLockerOptions } from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// What a recovery grace is for: a holder behind a link that swallows everything relies on its lock, while the server loses the lock and the
// next caller waits for it. RECOVERY_ROUNDS is the number of rounds; RECOVERY_REPORT=1 prints the figures.

/** Milliseconds. The crash itself takes half a second, during which nobody gets in. */
const ttl = 1_000;
/** For rounds without a grace: long enough that the next holder comes before it has passed, however slow the machine is. */
const ttlWithout = 20_000;

const asked = process.env["RECOVERY_ROUNDS"];
const report = process.env["RECOVERY_REPORT"] === "1";

/** A primary that is brought down, and where the next one is found afterwards. */
interface Place {
  readonly url: string;
  fault(): Promise<void>;
  /** Where the next caller connects once the fault has happened. */
  readonly urlAfter: string;
}

let server: PostgresServer;

beforeAll(async () => {
  server = await startServer();
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const faults: Readonly<Record<string, () => Promise<Place & AsyncDisposable>>> = {
  "a crash of one backend": async () => {
    const victim = await connect({ connectionString: server.url });
    return place(async () => {
      process.kill(victim.processID, "SIGKILL");
      await new Promise((resolve) => victim.once("end", resolve));
    });
  },
  "an immediate restart": async () => place(() => server.restart({ mode: "immediate" })),
  "a fast restart": async () => place(() => server.restart({ mode: "fast" })),
  "a promotion, with the old primary stopped": async () => {
    const old = server;
    const next = await old.standby();
    return {
      url: old.url,
      urlAfter: next.url,
      async fault() {
        await old.stop({ mode: "immediate" });
        await next.promote();
        server = next;
      },
      [Symbol.asyncDispose]: async () => await (server === next ? old : next)[Symbol.asyncDispose](),
    };
  },
};

function place(fault: () => Promise<void>): Place & AsyncDisposable {
  return { url: server.url, urlAfter: server.url, fault, [Symbol.asyncDispose]: async () => {} };
}

interface Round {
  /** Whether the first holder still relied on its lock when the next one was granted it. */
  readonly overlaps: boolean;
  /** Milliseconds from the fault to the next grant. */
  readonly nextAfter: number;
}

interface Given extends PostgresLockerOptions {
  readonly ttl: number;
  /** Whether the next holder has known the server for a while, and is waiting in it when the fault comes. */
  readonly isWarm: boolean;
}

/** @returns `undefined` if the first holder had lost its lock before the fault, because the machine was too busy for so short a TTL */
async function round(name: string, given: Given): Promise<Round | undefined> {
  const { ttl, isWarm, ...options } = given;
  const key = uniqueKey();
  await using scene = await (faults[name] as (typeof faults)[string])();
  await using proxy = await TcpProxy.start(scene.url);
  const cutOff = createPool({ connectionString: proxy.url });
  await using first = createLocker({ pool: cutOff, ...options });
  // Kept until the link is cut, however long the preparation takes.
  const lock = await first.acquire(key, { ttl, wait: "60s", autoRefresh: true });
  const pool = createPool({ connectionString: scene.urlAfter });
  await using next = createLocker({ pool, ...options });
  const wait = (): Promise<Lock> => next.acquire(key, { ttl, wait: "60s" });
  let waiting = isWarm ? wait() : undefined;
  waiting?.catch(() => {});
  if (isWarm) await somebodyWaits(() => lock.held);
  const isKept = await lock.refresh().then(
    () => true,
    () => false,
  );
  if (!isKept) return undefined;
  proxy.freeze();
  const start = performance.now();
  const fault = scene.fault();
  // After a promotion, the next caller uses another host.
  if (scene.urlAfter !== scene.url) await fault;
  waiting ??= wait();
  const other = await waiting;
  const overlaps = lock.held;
  const nextAfter = performance.now() - start;
  expect(other.held).toBe(true);
  await other.release();
  await fault;
  proxy.cut();
  return { overlaps, nextAfter };
}

async function somebodyWaits(isHeld: () => boolean): Promise<void> {
  const session = await connect({ connectionString: server.url });
  const waits = "select from pg_locks where locktype = 'advisory' and not granted";
  await until(async () => !isHeld() || (await session.query(waits)).rows.length > 0);
  await session.end();
}

/** @returns how many rounds had an overlap */
async function all(name: string, rounds: number, options: Omit<Given, "isWarm">): Promise<number> {
  const results: Round[] = [];
  for (let at = 0; at < rounds; at++) {
    const isWarm = at % 2 === 1 && !name.startsWith("a promotion");
    // Both ways with both kinds of sessions, in four rounds.
    const sessions = (at + (at >> 1)) % 2 === 0 ? "shared" : "dedicated";
    const result = await round(name, { ...options, sessions, isWarm });
    if (result === undefined) at -= 1;
    else results.push(result);
  }
  const overlaps = results.filter((each) => each.overlaps).length;
  if (report) {
    const after = results.map(({ nextAfter }) => Math.round(nextAfter)).sort((one, other) => one - other);
    const how = options.recoveryGrace === undefined ? "without a grace" : "with a grace";
    const figures = `${after[0]}/${after[after.length >> 1]}/${after.at(-1)} ms (least/median/most)`;
    process.stdout.write(
      `${name}, ${how}, TTL ${options.ttl} ms: ${overlaps} of ${rounds} overlap; next holder after ${figures}\n`,
    );
  }
  return overlaps;
}

describe.each(Object.keys(faults))("after %s", (name) => {
  const rounds = Number(asked ?? (name.startsWith("a promotion") ? 1 : 2));
  const roundsWithout = Number(asked ?? 1);

  test("with a grace, nobody is granted a lock that a cut-off holder relies on", {
    timeout: rounds * 30_000,
  }, async () => {
    expect(await all(name, rounds, { ttl, recoveryGrace: ttl })).toBe(0);
  });

  test("without a grace, somebody is granted such a lock", { timeout: roundsWithout * 30_000 }, async () => {
    expect(await all(name, roundsWithout, { ttl: ttlWithout })).toBe(roundsWithout);
  });
});
