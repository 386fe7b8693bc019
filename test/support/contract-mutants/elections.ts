import type { ElectOptions, Lock } from "../../../src/index.ts";
import { Broken, ignored, type Mutant, replaced, type Sound } from "./mutant.ts";

const leads = "a leader has the lock of the key, which is free once the election is told to end";
const candidate = "a candidate leads once the holder has released, unless it is told to end before that";
const again = "a leader whose work is done resigns, and stands again";
const fails = "an error of a leader ends the election, with the lock released";
const watches = "onNewLeader is told of the leader, and may throw";
const closes = "close ends an election: its leader is told, and the call resolves when the leader has ended";
const refused = "elect refuses an invalid key, TTL or function, and an unknown option";

const elects = (does: string, caughtBy: string, change: (sound: Sound) => Sound["elect"]): Mutant =>
  replaced(does, caughtBy, (sound) => ({ elect: change(sound) }));

/** Changes the leader's work. */
const leader = (
  does: string,
  caughtBy: string,
  change: (onElected: ElectOptions["onElected"]) => ElectOptions["onElected"],
): Mutant =>
  elects(
    does,
    caughtBy,
    ({ elect }) =>
      (key, options) =>
        elect(key, { ...options, ...(options.onElected && { onElected: change(options.onElected) }) }),
  );

const quiet = { signal: new AbortController().signal };

/** Mutants for elections. */
export const electionMutants: readonly Mutant[] = [
  elects("elect leads without a lock", leads, ({ elect }) => async (key, options) => {
    await elect(key, { ...options, onElected: (_, term) => options.onElected({} as Lock, term) });
  }),
  elects(
    "elect leads under the lock of another key",
    leads,
    ({ elect }) =>
      (key, options) =>
        elect(`${key}:leader`, options),
  ),
  ignored("elect", "ttl", leads),
  ignored("elect", "fencing", leads),
  leader("a leader isn't told to end", leads, (onElected) => (lock) => onElected(lock, quiet)),
  leader("a leader is told to end without the reason", leads, (onElected) => (lock, term) => {
    const told = new AbortController();
    term.signal.addEventListener("abort", () => told.abort());
    return onElected(lock, { signal: told.signal });
  }),
  elects("elect keeps its lock at the end", leads, ({ elect, acquire }) => async (key, options) => {
    await elect(key, options);
    await acquire(key);
  }),
  elects(
    "elect rejects with what a leader throws that was told to end",
    leads,
    ({ elect }) =>
      async (key, options) => {
        let failure: unknown;
        await elect(key, {
          ...options,
          onElected: async (...given) => {
            try {
              await options.onElected(...given);
            } catch (cause) {
              failure = new Broken("the leader failed", { cause });
            }
          },
        });
        if (failure !== undefined) throw failure;
      },
  ),
  elects("elect rejects when it is told to end", candidate, ({ elect }) => async (key, options) => {
    await elect(key, options);
    options.signal?.aborted && (await Promise.reject(new Broken("told to end")));
  }),
  ignored("elect", "signal", candidate),
  elects(
    "a candidate leads though somebody else has the lock",
    candidate,
    ({ elect }) =>
      (key, options) =>
        elect(`${key}:leader`, options),
  ),
  elects("elect doesn't wait for the lock", candidate, ({ tryAcquire }) => async (key, { onElected }) => {
    const lock = await tryAcquire(key);
    if (lock !== undefined) await onElected(lock, quiet);
  }),
  elects(
    "elect leads once",
    again,
    ({ withLock }) =>
      (key, { onElected }) =>
        withLock(key, async (lock) => void (await onElected(lock, quiet))),
  ),
  elects(
    "a leader doesn't wait for the end of its work",
    again,
    ({ elect }) =>
      (key, options) =>
        elect(key, {
          ...options,
          onElected: (...given) => void Promise.resolve(options.onElected(...given)).catch(() => {}),
        }),
  ),
  leader("an error of a leader is ignored", fails, (onElected) => async (...given) => {
    try {
      await onElected(...given);
    } catch {}
  }),
  elects(
    "an error of a leader keeps the lock",
    fails,
    ({ elect, acquire }) =>
      (key, options) =>
        elect(key, options).catch(async (error) => {
          await acquire(key);
          throw error;
        }),
  ),
  elects(
    "onNewLeader is never called",
    watches,
    ({ elect }) =>
      (key, { onNewLeader: _, ...options }) =>
        elect(key, options),
  ),
  elects(
    "onNewLeader isn't told that it is the leader",
    watches,
    ({ elect }) =>
      (key, { onNewLeader, ...options }) =>
        elect(key, {
          ...options,
          ...(onNewLeader && { onNewLeader: (who) => onNewLeader({ ...who, isSelf: false }) }),
        }),
  ),
  elects(
    "an error of onNewLeader ends the election",
    watches,
    ({ elect }) =>
      async (key, { onNewLeader, ...options }) => {
        let failure: unknown;
        await elect(key, {
          ...options,
          ...(onNewLeader && {
            onNewLeader: (who) => {
              try {
                onNewLeader(who);
              } catch (cause) {
                failure = new Broken("onNewLeader threw", { cause });
              }
            },
          }),
        });
        if (failure !== undefined) throw failure;
      },
  ),
  elects("elect resolves before its leader has ended", closes, ({ elect, on }) => async (key, options) => {
    const closing = new Promise<void>((resolve) => on("lost", () => resolve()));
    const over = elect(key, options);
    over.catch(() => {});
    // A leader has a moment before it is over: this one has none.
    await Promise.race([over, closing, new Promise((resolve) => setImmediate(resolve))]);
  }),
  leader("a leader isn't told of a close", closes, (onElected) => (lock) => onElected(lock, quiet)),
  ...(
    [
      ["EMPTY_KEY", undefined],
      ["INVALID_TTL", undefined],
      ["INVALID_CONFIG", "onElected"],
      ["INVALID_CONFIG", "onNewLeader"],
      ["INVALID_CONFIG", "retryPeriod"],
      ["INVALID_CONFIG", "signal"],
      ["INVALID_CONFIG", "wait"],
    ] as const
  ).map(([code, field]) =>
    elects(
      `elect passes over ${field ?? code}`,
      refused,
      ({ elect }) =>
        (key, options) =>
          elect(key, options).catch((error) => {
            if (error.code !== code || error.field !== field) throw error;
          }),
    ),
  ),
  elects("elect leads though it was told to end before", refused, ({ elect }) => async (key, options) => {
    await elect(key, options);
    if (options.signal?.aborted) await options.onElected({} as Lock, quiet);
  }),
];
