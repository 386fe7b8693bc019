import { connect as connectSocket } from "node:net";
import { kill } from "node:process";
import type pg from "pg";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, type Session } from "./database.ts";
import { ServerLog } from "./server-log.ts";
import { startServer } from "./start-server.ts";
import { until } from "./until.ts";

// The building blocks for tests of waiting in the server: waits by hand, with plain clients, on a server of the file's own.

/** A wait in the server that ends without an error at its bound or a cancel. `DO` takes no parameters. */
export function waitInBlock(id: bigint, call = "pg_catalog.pg_advisory_lock"): string {
  return `do $$ begin perform ${call}(${id}); exception when lock_not_available or query_canceled then null; end $$`;
}

/** The wait, and then whether the session has the lock, in one message. */
export function waitAndTell(id: bigint, mode: "exclusive" | "shared" = "exclusive"): string {
  const shared = mode === "shared" ? "_shared" : "";
  return `${waitInBlock(id, `pg_catalog.pg_advisory_lock${shared}`)}; select pg_catalog.pg_try_advisory_lock${shared}(${id}) as got`;
}

/** Makes one bounded wait on a session. */
export async function waitOnce(
  session: pg.Client,
  id: bigint,
  mode?: "exclusive" | "shared",
): Promise<boolean> {
  // The driver returns a result for each statement of a message.
  const results = (await session.query(waitAndTell(id, mode))) as unknown as pg.QueryResult<{
    got: boolean;
  }>[];
  return results.at(-1)?.rows[0]?.got === true;
}

/** Makes bounded waits, one after another, until the session has the lock. */
export async function waitUntilGranted(
  session: pg.Client,
  id: bigint,
  mode?: "exclusive" | "shared",
): Promise<void> {
  while (!(await waitOnce(session, id, mode)));
}

/** A test file's own PostgreSQL, whose log can be read and whose processes can be stopped. */
export class WaitingServer implements AsyncDisposable {
  readonly server: PostgresServer;
  readonly log: ServerLog;
  readonly #admin: () => Promise<Session>;

  private constructor(server: PostgresServer) {
    this.server = server;
    this.log = new ServerLog(server);
    let admin: Promise<Session> | undefined;
    this.#admin = () => {
      // The end of each test ends the clients that it has made.
      admin ??= this.connect({ application_name: "test-admin" }).then((client) => {
        client.once("end", () => {
          admin = undefined;
        });
        return client;
      });
      return admin;
    };
  }

  static async start(settings: Record<string, string | number> = {}): Promise<WaitingServer> {
    return new WaitingServer(await startServer({ settings }));
  }

  get url(): string {
    return this.server.url;
  }

  /** Connects a client, as the superuser or another role. Its waits have a bound, in milliseconds, if one is given. */
  async connect(config: pg.ClientConfig & { bound?: number } = {}): Promise<Session> {
    const { bound, ...rest } = config;
    const session = await connect({ connectionString: this.url, ...rest });
    if (bound !== undefined)
      await session.query("select set_config('lock_timeout', $1, false)", [`${bound}`]);
    return session;
  }

  async rows<R extends pg.QueryResultRow>(sql: string, values: unknown[] = []): Promise<R[]> {
    return (await (await this.#admin()).query<R>(sql, values)).rows;
  }

  /** The pids that hold the lock, or those that wait for it, in order if the server tells the order. */
  async pidsOf(id: bigint, what: "granted" | "waiting"): Promise<number[]> {
    const rows = await this.rows<{ pid: number }>(
      `select pid from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted = $2
          and ((classid::bigint << 32) | objid::bigint) = $1
        order by waitstart`,
      [id.toString(), what === "granted"],
    );
    return rows.map(({ pid }) => pid);
  }

  /** Resolves with the pids of the waiters once there are that many, in the order in which they asked. */
  async waiters(id: bigint, count: number, deadline = 15_000): Promise<number[]> {
    let pids: number[] = [];
    const enough = async () => {
      pids = await this.pidsOf(id, "waiting");
      return pids.length === count;
    };
    await until(enough, { interval: 3, deadline }).catch(() => {
      throw new Error(`${pids.length} wait in the server, not ${count}`);
    });
    return pids;
  }

  /** The sessions of lockers; only those for waits if `which` says so. */
  async sessions(which: "all" | "waits" = "all"): Promise<{ pid: number; name: string }[]> {
    return await this.rows(
      "select pid, application_name as name from pg_stat_activity where application_name like $1",
      [which === "waits" ? "pg-locker % (waits)" : "pg-locker %"],
    );
  }

  /** Resolves when nothing is left of lockers that are closed or idle: no lock, no wait, and no session for waits. */
  async nothingLeft(): Promise<void> {
    const left = () =>
      this.rows<{ pid: number; what: string }>(
        `select pid, case when locktype is null then 'a session' when granted then 'a lock' else 'a wait' end as what
           from pg_stat_activity left join pg_locks using (pid)
          where application_name like 'pg-locker %'
            and (locktype = 'advisory' or application_name like '% (waits)')
            and (locktype is null or locktype <> 'virtualxid')`,
      );
    const none = async () => (await left()).length === 0;
    await until(none, { deadline: 3_000 }).catch(async () => {
      throw new Error(`left in the server: ${JSON.stringify(await left())}`);
    });
  }

  /** The number of statements that the lockers' clients have executed; the server counts each when it ends. */
  async statements(): Promise<number> {
    await this.rows("create extension if not exists pg_stat_statements");
    const [row] = await this.rows<{ calls: number }>(
      `select coalesce(sum(calls), 0)::float8 as calls from pg_stat_statements
        where query !~ 'pg_stat_statements|pg_stat_activity|from pg_locks'`,
    );
    return row?.calls ?? Number.NaN;
  }

  /** Resolves when at least that many sessions wait in the server. */
  async waiting(id: bigint, ...sessions: readonly Session[]): Promise<void> {
    await until(
      async () => {
        const pids = await this.pidsOf(id, "waiting");
        return sessions.every(({ processID }) => pids.includes(processID));
      },
      { what: "sessions that wait in the server", interval: 2 },
    );
  }

  /** Whether the session's backend still exists. */
  async lives(session: Session): Promise<boolean> {
    return (await this.rows("select from pg_stat_activity where pid = $1", [session.processID])).length === 1;
  }

  /**
   * Does something while the backend of a session is stopped. When it continues, it meets everything that happened in that time at once, so
   * that a grant and the end of the wait for it can be simultaneous.
   */
  async whileStopped(session: Pick<Session, "processID">, work: () => Promise<void>): Promise<void> {
    kill(session.processID, "SIGSTOP");
    try {
      await work();
    } finally {
      kill(session.processID, "SIGCONT");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
  }
}

/** Cancels what a session does, over a connection of its own. Resolves when the server has sent the signal. */
export async function cancelRequest(session: Session): Promise<void> {
  const { host, port, secretKey } = session as Session & { secretKey: number };
  await new Promise<void>((resolve, reject) => {
    const socket = connectSocket({ host, port }, () => {
      const packet = Buffer.alloc(16);
      packet.writeInt32BE(16, 0);
      packet.writeInt32BE(80877102, 4);
      packet.writeInt32BE(session.processID, 8);
      packet.writeInt32BE(secretKey, 12);
      socket.write(packet);
    });
    // The server sends nothing, and closes the connection once the signal has been sent.
    socket.on("data", () => {});
    socket.once("close", () => resolve());
    socket.once("error", reject);
  });
}
