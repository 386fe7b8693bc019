import type { Lock, TransactionClient, TransactionLocker } from "../../../src/index.ts";
import { Broken, handle, ignored, type Mutant, replaced, type Sound } from "./mutant.ts";

const returns = "withTransaction returns what its function returns, which has the lock and a client";
const rejects = "withTransaction rejects with what its function throws, and frees the lock";
const refused = "withTransaction is refused if the lock is held, and doesn't run its function";
const waits = "withTransaction waits for the holder, with the option `wait`";
const aborted = "withTransaction ends a wait that is aborted, with the signal's own reason";
const inNamespace =
  "withTransaction of a namespace locks the key with its prefix, also of one inside another";
const badOptions = "withTransaction refuses what is not a client, and an unknown option";
const badKey =
  "withTransaction of an empty key, or with a TTL that is none, is refused, and doesn't run its function";
const passes = "withTransaction whose wait passes doesn't run its function";
const shared = "withTransaction in shared mode runs beside readers, and not beside a writer";
const past = "withTransaction keeps its lock past its TTL";
const inside = "withTransaction doesn't share its lock, whatever a call inside it asks for";
const quiet = "withTransaction has no events";
const closes = "withTransaction commits nothing if its locker closes in the meantime";
const object = "withTransaction can be called without its object, and not after a close";

const client: TransactionClient = { query: async () => ({ rows: [] }) };

type WithTransaction = (
  key: string,
  fn: (client: TransactionClient) => unknown,
  options?: { signal?: AbortSignal },
) => Promise<unknown>;

const runs = (
  does: string,
  caughtBy: string,
  change: (run: WithTransaction, sound: Sound) => WithTransaction,
): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    withTransaction: change(
      sound.withTransaction as WithTransaction,
      sound,
    ) as TransactionLocker["withTransaction"],
  }));

/** Runs the function under a lock of `acquire`, as a careless author would write it. */
const under =
  (take: (key: string, options?: object) => Promise<Lock>): WithTransaction =>
  async (key, fn, options) => {
    const lock = await take(key, options);
    try {
      return await fn(client);
    } finally {
      await lock[Symbol.asyncDispose]();
    }
  };

/** Runs the function without the lock after an error with this `code` or `reason`. */
const runsAfter = (does: string, caughtBy: string, what: string): Mutant =>
  runs(
    does,
    caughtBy,
    (run) => (key, fn, options) =>
      run(key, fn, options).catch((error) => {
        if (error.code === what || error.reason === what) return fn(client);
        throw error;
      }),
  );

/** Mutants for `withTransaction`. */
export const transactionMutants: readonly Mutant[] = [
  runs("withTransaction runs its function without a lock", returns, () => async (_, fn) => fn(client)),
  runs(
    "withTransaction has no client",
    returns,
    (run) => (key, fn, options) => run(key, () => fn({} as TransactionClient), options),
  ),
  runs("withTransaction resolves with nothing", returns, (run) => async (key, fn, options) => {
    await run(key, fn, options);
    return undefined;
  }),
  runs("withTransaction keeps its lock", returns, (_, { acquire }) => async (key, fn) => {
    await acquire(key);
    return await fn(client);
  }),
  runs(
    "withTransaction wraps the error of its function",
    rejects,
    (run) => (key, fn, options) =>
      run(key, fn, options).catch((cause) => {
        throw new Broken("the function failed", { cause });
      }),
  ),
  runs(
    "withTransaction keeps its lock if its function throws",
    rejects,
    (_, { acquire }) =>
      async (key, fn) => {
        const lock = await acquire(key);
        const value = await fn(client);
        await lock.release();
        return value;
      },
  ),
  runsAfter("withTransaction runs its function though the key is held", refused, "held"),
  ignored("withTransaction", "wait", waits),
  ignored("withTransaction", "signal", aborted),
  runs(
    "withTransaction rejects with an error of the locker's when it is aborted",
    aborted,
    (run) => (key, fn, options) =>
      run(key, fn, options).catch((cause) => {
        throw options?.signal?.aborted ? new Broken("aborted", { cause }) : cause;
      }),
  ),
  replaced("withTransaction of a namespace locks the bare key", inNamespace, (sound) => ({
    namespace: (name) => handle(sound.namespace(name), { withTransaction: sound.withTransaction }),
  })),
  replaced("withTransaction of a namespace inside another has only its own prefix", inNamespace, (sound) => ({
    namespace: (name) => handle(sound.namespace(name), { namespace: sound.namespace }),
  })),
  ...["client", "fencing", "timeout"].map((option) => ignored("withTransaction", option, badOptions)),
  runs(
    "withTransaction takes what is no function",
    badOptions,
    (run) => (key, fn, options) => run(key, fn ?? (() => {}), options),
  ),
  runsAfter("withTransaction of an empty key runs its function", badKey, "EMPTY_KEY"),
  runsAfter("withTransaction with a bad TTL runs its function", badKey, "INVALID_TTL"),
  runsAfter("withTransaction runs its function when its wait has passed", passes, "wait-timeout"),
  ignored("withTransaction", "mode", shared),
  runs(
    "withTransaction in shared mode runs beside a writer",
    shared,
    (run) => (key, fn, options) =>
      options !== undefined && "mode" in options ? Promise.resolve(fn(client)) : run(key, fn, options),
  ),
  runs("withTransaction lets its lock lapse", past, (_, { acquire }) => under(acquire)),
  runs(
    "withTransaction shares its lock inside it",
    inside,
    (_, { withLock }) =>
      (key, fn, options) =>
        withLock(key, () => fn(client), options),
  ),
  runs("withTransaction has the events of its lock", quiet, (_, { acquire }) => under(acquire)),
  runs("withTransaction tells that it waits", quiet, (run, { acquire }) => async (key, fn, options) => {
    const wait = acquire(key, { wait: 1 });
    await (await wait.catch(() => undefined))?.release();
    return await run(key, fn, options);
  }),
  runs("withTransaction commits though its locker has closed", closes, () => async (_, fn) => fn(client)),
  replaced("withTransaction needs its object", object, (sound) => ({
    withTransaction(this: object | undefined, key, fn, options) {
      if (this === undefined) return Promise.reject(new Broken("no object"));
      return sound.withTransaction(key, fn, options);
    },
  })),
  runsAfter("withTransaction of a closed locker goes on", object, "LOCKER_CLOSED"),
];
