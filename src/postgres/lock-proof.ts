import { randomBytes } from "node:crypto";
import { LocksNotKeptError } from "../contract/errors.ts";
import { within } from "../runtime/clock.ts";
import { clientBeside, destroySocket, type OwnClient, type Pool, query, type Statement } from "./driver.ts";
import { hasLock, probeLock, unprobeLock } from "./sql.ts";

/** Milliseconds before a proof that was not possible is tried again. */
const pause = 1_000;

/**
 * Proves, once for each locker, that a server keeps the advisory locks that it grants. Databases that speak PostgreSQL's
 * protocol may answer true and lock nothing (https://github.com/cockroachdb/cockroach/issues/13546): every caller would hold every lock.
 */
export class LocksKept {
  readonly #pool: Pool;
  #areProven = false;
  #underWay: Promise<void> | undefined;
  #notBefore = 0;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  get areProven(): boolean {
    return this.#areProven;
  }

  /**
   * Proves it, unless that has been done. If the server doesn't answer within the given number of milliseconds, the proof is postponed,
   * because a lock that was granted in the meantime already has a working session.
   *
   * @throws {LocksNotKeptError}
   */
  async prove(milliseconds: number): Promise<void> {
    if (this.#areProven || performance.now() < this.#notBefore) return;
    this.#underWay ??= this.#prove(milliseconds).finally(() => {
      this.#underWay = undefined;
    });
    await this.#underWay;
  }

  async #prove(milliseconds: number): Promise<void> {
    const over = performance.now() + milliseconds;
    const clients: OwnClient[] = [];
    const connect = async (): Promise<OwnClient> => {
      const client = clientBeside(this.#pool);
      clients.push(client);
      await client.connect();
      return client;
    };
    // A failover between the two connections puts them on different servers, which fails the check; so a failure is checked again.
    const look = async (): Promise<boolean> => (await areKept(connect)) || areKept(connect);
    try {
      if (this.#pool.loadDriver !== undefined) await this.#pool.loadDriver();
      const kept = await within(milliseconds, look());
      if (!kept) throw new LocksNotKeptError();
      this.#areProven = true;
    } catch (error) {
      if (error instanceof LocksNotKeptError) throw error;
      this.#notBefore = performance.now() + pause;
    } finally {
      // Waits until the connections have ended, because the next caller may need them if connections are few.
      const left = Math.max(over - performance.now(), 1);
      await Promise.all(
        clients.map((client) => within(left, client.end()).catch(() => destroySocket(client))),
      );
    }
  }
}

/** Whether a session that took a lock finds it in `pg_locks`, while a second session is refused the same lock. */
async function areKept(connect: () => Promise<OwnClient>): Promise<boolean> {
  const id = randomBytes(8).readBigInt64BE().toString();
  const ask = async (client: OwnClient, statement: Statement): Promise<boolean> => {
    const { rows } = await client.query(query(statement, [id]));
    return JSON.parse(String(rows[0]?.[0])) as boolean;
  };
  const one = await connect();
  const granted = await ask(one, probeLock);
  const listed = await ask(one, hasLock);
  const another = await connect();
  const grantedTwice = await ask(another, probeLock);
  await ask(one, unprobeLock);
  return granted && listed && !grantedTwice;
}
