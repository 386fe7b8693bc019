// What must not compile. Checked by `tsc`, never run: an error that goes missing is an error.

import type { PoolClient } from "pg";
import type {
  Lock,
  Locker,
  MemoryLocker,
  PostgresLocker,
  TransactionClient,
  TransactionLocker,
} from "../../src/index.ts";
import { lockId } from "../../src/index.ts";

declare const locker: Locker;
declare const lock: Lock;

export async function compiles(postgres: PostgresLocker, memory: MemoryLocker): Promise<readonly Locker[]> {
  await using acquired = await locker.acquire("invoice:42", { ttl: "30s", mode: "shared" });
  const maybe: Lock | undefined = await locker.tryAcquire("invoice:42", { ttl: 30_000 });
  await acquired.refresh("1m30s", { signal: new AbortController().signal });
  await maybe?.refresh();
  const id: bigint = lockId(7, "invoice:42");
  return id === lock.id ? [postgres] : [memory];
}

export async function transactionsCompile(postgres: PostgresLocker, client: PoolClient): Promise<number> {
  const rows: number = await postgres.withTransaction(
    "key",
    async (tx) => (await tx.query("select 1")).rows.length,
  );
  await postgres.withTransaction("key", async (tx: PoolClient) => void (await tx.query("select 1")), {
    wait: true,
  });
  await postgres.withTransaction("key", (tx) => tx.query<{ one: number }>("select 1 as one"), { client });
  await postgres.withTransaction("key", () => {}, { ttl: "5s" });
  // @ts-expect-error a lock of a transaction has no token
  await postgres.withTransaction("key", () => {}, { fencing: true });
  return rows;
}

/** A function as in production code, which takes either locker. */
export class Invoices {
  readonly #locker: TransactionLocker;

  constructor(locker: TransactionLocker) {
    this.#locker = locker;
  }

  pay(id: number, client?: PoolClient): Promise<boolean> {
    const paying = async (tx: TransactionClient) =>
      (await tx.query("update invoice set paid = true where id = $1", [id])).rows.length > 0;
    return this.#locker.withTransaction("invoice", paying, { wait: "5s", ...(client && { client }) });
  }

  count(client: PoolClient): Promise<number | null> {
    return this.#locker.withTransaction("invoice", async (tx) => (await tx.query("select")).rowCount, {
      client,
    });
  }
}

export function injectedCompiles(postgres: PostgresLocker, memory: MemoryLocker): readonly Invoices[] {
  // @ts-expect-error a locker that need not have transactions
  const without: TransactionLocker = locker;
  return [new Invoices(postgres), new Invoices(memory), new Invoices(without)];
}

export async function doesNotCompile(): Promise<void> {
  // @ts-expect-error a key is a string or bytes
  await locker.acquire(42);
  // @ts-expect-error a ttl is milliseconds or a string, not a bigint
  await locker.acquire("key", { ttl: 30n });
  // @ts-expect-error an option that there is not
  await locker.acquire("key", { timeout: "5s" });
  // @ts-expect-error a mode that there is not
  await locker.acquire("key", { mode: "exclusively" });
  // @ts-expect-error an option is left out, not undefined
  await locker.acquire("key", { ttl: undefined });
  // @ts-expect-error the ttl of a lock is not an option of refresh
  await lock.refresh({ ttl: "30s" });

  const maybe = await locker.tryAcquire("key");
  // @ts-expect-error it may be undefined
  await maybe.release();

  // @ts-expect-error a lock id is a bigint from end to end
  const id: number = lock.id;
  // @ts-expect-error what a handle says is read, not written
  lock.held = true;
  // @ts-expect-error nor is its ttl: refresh it
  lock.ttl = id;
  // @ts-expect-error a lock is given back asynchronously
  using disposed = lock;
  // @ts-expect-error a namespace is an int32, not its text
  disposed.key = lockId("7", "key").toString();
}
