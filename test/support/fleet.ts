import type pg from "pg";
import { lockId, type PostgresLocker, type PostgresLockerOptions } from "../../src/index.ts";
import type { WaitingServer } from "./bounded-wait.ts";
import { createPool, type Session, uniqueKey } from "./database.ts";
import { createLocker } from "./locker.ts";

export interface FleetOptions extends Omit<PostgresLockerOptions, "pool" | "database" | "connectionString"> {
  readonly maxWaitingSessions?: number;
  /** Options of each locker's pool. Default: one connection. */
  readonly poolConfig?: pg.PoolConfig;
}

/** Lockers as if in many processes: each with a pool and sessions of its own. */
export class Fleet implements AsyncDisposable {
  readonly lockers: readonly PostgresLocker[];

  private constructor(lockers: readonly PostgresLocker[]) {
    this.lockers = lockers;
  }

  /** Makes that many lockers, each of which has done what a locker does once, with its first lock. */
  static async start(count: number, url: string, options: FleetOptions = {}): Promise<Fleet> {
    const { poolConfig, ...rest } = options;
    const one = () => {
      const pool = createPool({ connectionString: url, max: 1, ...poolConfig });
      return createLocker({ pool, ...rest });
    };
    const fleet = new Fleet(Array.from({ length: count }, one));
    // Not all at once, because a small machine is slowest at connecting.
    const rows = [...fleet.lockers];
    const warm = async (): Promise<void> => {
      for (let locker = rows.pop(); locker; locker = rows.pop())
        await (await locker.acquire(uniqueKey())).release();
    };
    await Promise.all([warm(), warm(), warm(), warm()]);
    return fleet;
  }

  get first(): PostgresLocker {
    return this.lockers[0] as PostgresLocker;
  }

  /** Closes all of them. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.lockers.map((locker) => locker.close()));
  }
}

/** A lock that somebody else holds, taken by hand with a plain client, which tells nobody anything. */
export class HeldByHand implements AsyncDisposable {
  readonly key = uniqueKey();
  readonly id = lockId(0, this.key);
  readonly session: Session;

  private constructor(session: Session) {
    this.session = session;
  }

  static async on(server: WaitingServer, mode: "exclusive" | "shared" = "exclusive"): Promise<HeldByHand> {
    const held = new HeldByHand(await server.connect());
    const shared = mode === "shared" ? "_shared" : "";
    await held.session.query(`select pg_advisory_lock${shared}($1)`, [held.id.toString()]);
    return held;
  }

  async release(): Promise<void> {
    await this.session.query("select pg_advisory_unlock_all()");
  }

  /** Ends the session that holds the lock, so that a failed test keeps nobody waiting. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.session.end();
  }
}
