// Reads the server's list of locks, over a connection that no fault affects, some fifteen times a second.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

/** Milliseconds between two looks. */
const pause = 60;

// The query must read the locks only once. If a lock's session ends at that moment, its role is null.
const locks = `
select l.pid, ((l.classid::int8 << 32) | l.objid::int8)::text as id, l.mode, a.usename as role,
       concat_ws(' ', a.state, 'for', round(extract(epoch from clock_timestamp() - a.state_change) * 1000), 'ms',
                 a.wait_event) as doing
  from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1`;

export class Observer {
  /** The number of samples taken. */
  samples = 0;
  #onSample;
  #url;
  #keys;
  #now;
  /** A promise of a connected client. */
  #client;
  #latest;
  #last = Promise.resolve();
  #running;
  #stopped = false;

  /** @param keys the key of each lock id @param onSample called with each sample: the locks by key */
  constructor({ url, keys, now, onSample }) {
    this.#onSample = onSample;
    this.#url = url;
    this.#keys = keys;
    this.#now = now;
  }

  start() {
    this.#running = this.#run();
  }

  /** Observes another server from now on. A sample under way is dropped. */
  follow(url) {
    this.#url = url;
    this.#client?.then((client) => client.end()).catch(() => {});
    this.#client = undefined;
  }

  async stop() {
    this.#stopped = true;
    await this.#running;
    await this.#client?.then((client) => client.end()).catch(() => {});
  }

  /**
   * Returns the current locks: those of the keys, and others, such as the one with which a locker proves that the server keeps locks. Waits
   * while the server is down.
   */
  async look() {
    for (;;) {
      try {
        const { rows } = await this.#query(locks);
        const of = (ids) =>
          rows.flatMap((row) => (ids.has(row.id) ? [{ ...row, key: ids.get(row.id) }] : []));
        const others = rows.filter(({ id }) => !this.#keys.has(id));
        return { keys: of(this.#keys), others };
      } catch (error) {
        if (this.#stopped || isMistake(error)) throw error;
        await delay(20);
      }
    }
  }

  /** Runs a statement. Waits while the server is down. */
  async ask(text, values) {
    for (;;) {
      try {
        return (await this.#query(text, values)).rows;
      } catch (error) {
        if (this.#stopped || isMistake(error)) throw error;
        await delay(20);
      }
    }
  }

  async #run() {
    while (!this.#stopped) {
      const client = this.#client;
      const from = this.#now();
      const seen = await this.look().catch(() => undefined);
      // Keeps only samples taken over one connection: if the server was down in between, the query was sent later than `from`.
      if (seen !== undefined && client !== undefined && client === this.#client) {
        const rows = new Map();
        for (const { key, pid, mode, role, doing } of seen.keys) {
          const row = {
            pid,
            mode: mode === "ShareLock" ? "shared" : "exclusive",
            worker: workerOf(role),
            doing,
          };
          const before = rows.get(key);
          if (before === undefined) rows.set(key, [row]);
          else before.push(row);
        }
        this.samples += 1;
        this.#onSample({ from, to: this.#now(), rows });
      }
      await delay(pause);
    }
  }

  /** Runs one statement at a time. */
  #query(text, values) {
    const answer = this.#last.then(async () => (await this.#connected()).query(text, values));
    this.#last = answer.catch(() => {});
    return answer;
  }

  #connected() {
    this.#client ??= this.#connect();
    return this.#client;
  }

  async #connect() {
    const client = new pg.Client({ connectionString: this.#url, application_name: "observer" });
    const forget = () => {
      if (this.#latest === client) this.#client = undefined;
    };
    this.#latest = client;
    client.on("error", forget);
    client.on("end", forget);
    try {
      await client.connect();
      return client;
    } catch (error) {
      forget();
      client.end().catch(() => {});
      throw error;
    }
  }
}

/** Whether an error is a programming mistake rather than due to a server that stops or starts, or a broken socket. */
const isMistake = (error) => /^(42|22|23)/.test(error?.code ?? "");

const rolePrefix = "chaos_worker_";
export const roleOf = (worker) => `${rolePrefix}${worker}`;

function workerOf(role) {
  return role?.startsWith(rolePrefix) ? Number(role.slice(rolePrefix.length)) : undefined;
}
