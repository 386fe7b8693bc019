// The least that a lock can cost in a process: an object for each lock, batches on one connection, a list of those held, three metrics. It leaves
// out waiting, aborts, refreshes, losses and every check, so nobody could use it.
// biome-ignore lint/correctness/noUndeclaredDependencies: it is the project's own
import { metrics } from "@opentelemetry/api";
import pg from "pg";
import { lockId } from "../../dist/index.js";

/** With more callers than this, one half is under way while the other half is told. */
const halvedAbove = 128;

const text = `
select pg_catalog.concat_ws(' ', pg_catalog.pg_backend_pid(), done.answers)
  from (select case when pg_catalog.set_config('idle_session_timeout', '0', false) is not null then
               pg_catalog.array_to_string(array(
                 select case operation.letter
                          when 'x' then case when pg_catalog.pg_try_advisory_lock(operation.id) then 't' else 'f' end
                          else case when pg_catalog.pg_advisory_unlock(operation.id) then '1' else '0' end end
                   from rows from (pg_catalog.unnest($1::int8[]), pg_catalog.unnest($2::"char"[])) as operation(id, letter)), '') end as answers
        offset 0) as done`;

export const sketch = {
  title: "a sketch that only takes and frees",
  on: "PostgreSQL",
  async start({ url }) {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const locks = new Sketch(client);
    return {
      caller: (key) => async () => {
        const lock = await locks.acquire(key);
        await lock.release();
      },
      connections: () => 1,
      end: () => client.end(),
    };
  },
};

class Lock {
  constructor(sketch, key) {
    this.sketch = sketch;
    this.key = key;
    this.id = lockId(0, key);
    this.letter = "x";
    this.sentAt = 0;
    this.previous = undefined;
    this.next = undefined;
    this.resolve = undefined;
    this.reject = undefined;
    this.start = 0;
  }

  release() {
    this.letter = "u";
    return this.sketch.ask(this);
  }
}

class Sketch {
  #queue = [];
  #isBusy = false;
  #held = new Map();
  #last;

  constructor(client) {
    const meter = metrics.getMeter("sketch");
    this.client = client;
    this.acquired = meter.createCounter("acquired");
    this.holding = meter.createUpDownCounter("holding");
    this.latency = meter.createHistogram("latency");
  }

  acquire(key) {
    const lock = new Lock(this, key);
    if (this.#held.has(lock.id)) return Promise.reject(new Error(`${key} is held`));
    this.#held.set(lock.id, lock);
    return this.ask(lock);
  }

  ask(lock) {
    return new Promise((resolve, reject) => {
      lock.resolve = resolve;
      lock.reject = reject;
      lock.start = performance.now();
      this.#queue.push(lock);
      if (!this.#isBusy) this.#send(0);
    });
  }

  #send(answered) {
    const callers = this.#queue.length + answered;
    const most = callers > halvedAbove ? Math.ceil(callers / 2) : callers;
    const batch = this.#queue.splice(0, most);
    this.#isBusy = batch.length > 0;
    if (this.#isBusy) this.client.query(new Batch(this, batch));
  }

  answered(batch, answers, sentAt) {
    this.#send(batch.length);
    const now = performance.now();
    for (const [at, lock] of batch.entries()) {
      this.latency.record(now - lock.start);
      if (answers[at] === "t") this.#granted(lock, sentAt);
      else if (answers[at] === "1") this.#freed(lock);
      else lock.reject(new Error(`${lock.key} was not granted`));
    }
  }

  #granted(lock, sentAt) {
    this.acquired.add(1);
    this.holding.add(1);
    lock.sentAt = sentAt;
    lock.previous = this.#last;
    if (this.#last !== undefined) this.#last.next = lock;
    this.#last = lock;
    lock.resolve(lock);
  }

  #freed(lock) {
    this.holding.add(-1);
    this.#held.delete(lock.id);
    if (lock.previous !== undefined) lock.previous.next = lock.next;
    if (lock.next === undefined) this.#last = lock.previous;
    else lock.next.previous = lock.previous;
    lock.resolve();
  }
}

/** What the driver's `query` takes: the messages of one statement, and its answer. */
class Batch {
  name = "sketch";
  text = text;
  callback = () => {};
  sentAt = performance.now();

  constructor(sketch, locks) {
    this.sketch = sketch;
    this.locks = locks;
  }

  submit(connection) {
    const ids = `{${this.locks.map(({ id }) => id.toString()).join(",")}}`;
    const letters = `{${this.locks.map(({ letter }) => letter).join(",")}}`;
    connection.stream.cork();
    if (connection.parsedStatements[this.name] === undefined)
      connection.parse({ name: this.name, text, types: [] });
    connection.bind({ statement: this.name, values: [ids, letters] });
    connection.execute({ portal: "", rows: 0 });
    connection.sync();
    connection.stream.uncork();
    return null;
  }

  handleDataRow({ fields }) {
    this.answers = fields[0].slice(fields[0].indexOf(" ") + 1);
  }

  handleReadyForQuery() {
    this.sketch.answered(this.locks, this.answers, this.sentAt);
  }

  handleError(error) {
    for (const lock of this.locks) lock.reject(error);
  }

  handleCommandComplete() {}
  handleRowDescription() {}
}
