import pg from "pg";
import { expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { connect, createPool, databaseUrl, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// Why the server may keep a lock that nobody relies on for two TTLs, but not for longer: see docs/chaos.md.

test("a late grant is proved, and the server's TTL begins anew before anybody has it", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  let onQuery: (() => void) | undefined;
  class WatchedClient extends pg.Client {
    override query(...args: unknown[]): never {
      // biome-ignore lint/suspicious/noExplicitAny: it has nine signatures
      const answer = (super.query as any)(...args);
      onQuery?.();
      return answer as never;
    }
  }
  const pool = createPool({ connectionString: proxy.url, Client: WatchedClient } as pg.PoolConfig);
  await using locker = createLocker({ pool, ttlEnforcement: "server" });
  await (await locker.acquire(uniqueKey())).release();
  const key = uniqueKey();
  const id = lockId(0, key);
  const ttl = 2_000;
  const holder = await connect();
  await holder.query("select pg_advisory_lock($1)", [id]);
  const waiting = locker.acquire(key, { wait: "10s", ttl });
  let isSettled = false;
  const settled = waiting
    .catch(() => {})
    .finally(() => {
      isSettled = true;
    });
  const waits =
    "select from pg_locks where locktype = 'advisory' and not granted and ((classid::int8 << 32) | objid::int8) = $1";
  await until(async () => (await onServer(waits, [id])).length === 1);

  // The server grants the lock, and the answer is held back for more than a tenth of the TTL.
  proxy.freeze({ direction: "toClient" });
  await holder.query("select pg_advisory_unlock($1)", [id]);
  await until(async () => (await holdersOf(id)).length === 1);
  const [pid] = await holdersOf(id);
  const changed =
    "select state_change::text, state = 'idle' and state_change + '300 ms' < clock_timestamp() as is_late from pg_stat_activity where pid = $1";
  await until(async () => (await onServer(changed, [pid]))[0]?.["is_late"] === true);
  const granted = (await onServer(changed, [pid]))[0]?.["state_change"];

  // That answer arrives, but the answer to the locker's next statement doesn't.
  onQuery = () => {
    onQuery = undefined;
    proxy.freeze({ direction: "toClient" });
  };
  proxy.thaw();
  await until(async () => {
    const [row] = await onServer(changed, [pid]);
    return row?.["state_change"] !== granted;
  });
  // From here the server counts one more TTL, if it hears nothing else.
  expect(await holdersOf(id)).toEqual([pid]);
  expect(isSettled).toBe(false);

  proxy.thaw();
  await settled;
  await waiting.then((lock) => lock.release()).catch(() => {});
});
