import { type LockInspection, MemoryLocker } from "../../../src/index.ts";
import { type Mutant, onSameStore, replaced, type Sound } from "./mutant.ts";

const tells = "inspect and isHeld say whether a lock is held, and by whom";
const counts = "inspect counts the callers that wait, and acquires nothing";
const elsewhere = "inspect sees the lock of another locker, and says that it isn't held here";
const refuses = "inspect and isHeld refuse an invalid key, an unknown option, and an aborted signal";

/** Changes what `inspect` returns. */
const seen = (
  does: string,
  caughtBy: string,
  change: (state: LockInspection) => Partial<LockInspection>,
): Mutant =>
  replaced(does, caughtBy, (sound) => ({
    inspect: async (key, options) => {
      const state = await sound.inspect(key, options);
      return { ...state, ...change(state) };
    },
  }));

/** Changes what `inspect` tells of each holder. */
const holder = (does: string, change: object): Mutant =>
  seen(does, tells, ({ holders }) => ({ holders: holders.map((one) => ({ ...one, ...change })) }));

/** The looks at a lock of another locker: its holders are strangers. */
const stranger = ({ holders }: LockInspection): Partial<LockInspection> => ({
  heldHere: false,
  holders: holders.map((one) => ({ ...one, own: false })),
});

/** Mutants for `inspect` and `isHeld`. */
export const inspectionMutants: readonly Mutant[] = [
  replaced("isHeld is never true", tells, () => ({ isHeld: async () => false })),
  replaced("isHeld is always true", tells, () => ({ isHeld: async () => true })),
  seen("held is never true", tells, () => ({ held: false })),
  seen("held is always true", tells, () => ({ held: true })),
  seen("heldHere is never true", tells, () => ({ heldHere: false })),
  seen("a held lock has no holders", tells, () => ({ holders: [] })),
  seen("inspect doesn't tell the key", tells, () => ({ key: "" })),
  seen("inspect doesn't tell the id", tells, () => ({ id: 0n })),
  holder("a holder has the wrong mode", { mode: "shared" }),
  holder("every holder has the exclusive mode", { mode: "exclusive" }),
  holder("no holder is this locker", { own: false }),
  holder("a holder has held since now", { since: new Date(0) }),
  holder("it isn't known since when a holder has held", { since: undefined }),
  holder("inspect doesn't tell the fencing token", { fencingToken: undefined }),
  seen("inspect counts nobody who waits", counts, () => ({ waitingHere: 0 })),
  seen("inspect counts one who waits", counts, ({ waitingHere }) => ({
    waitingHere: Math.min(waitingHere, 1),
  })),
  replaced("inspect counts those who have waited", counts, (sound) => {
    let most = 0;
    return {
      inspect: async (key, options) => {
        const state = await sound.inspect(key, options);
        most = Math.max(most, state.waitingHere);
        return { ...state, waitingHere: most };
      },
    };
  }),
  replaced("inspect acquires the lock", counts, (sound) => ({
    inspect: async (key, options) => {
      const state = await sound.inspect(key, options);
      if (!state.held) await sound.acquire(key);
      return state;
    },
  })),
  replaced("inspect sees this locker's locks only", elsewhere, () => ({}), {
    another: () => new MemoryLocker(),
  }),
  replaced("inspect takes any lock for this locker's", elsewhere, () => ({}), { another: onSameStore }),
  replaced(
    "isHeld sees this locker's locks only",
    elsewhere,
    (sound) => ({
      isHeld: async () => false,
      inspect: async (key, options) => {
        const state = await sound.inspect(key, options);
        return { ...state, ...stranger(state) };
      },
    }),
    { another: onSameStore },
  ),
  ...(["inspect", "isHeld"] as const).flatMap((method) => [
    ...["EMPTY_KEY", "INVALID_KEY", "INVALID_CONFIG"].map((code) =>
      replaced(`${method} passes over ${code}`, refuses, (sound) => ({
        [method]: (...given: Parameters<Sound["inspect"]>) =>
          (sound[method](...given) as Promise<unknown>).catch((error) => {
            if (error.code !== code) throw error;
            return sound[method]("key") as Promise<unknown>;
          }),
      })),
    ),
    replaced(`${method} doesn't look at its signal`, refuses, (sound) => ({
      [method]: (key: string, { signal: _, ...options }: { signal?: AbortSignal } = {}) =>
        sound[method](key, options),
    })),
  ]),
];
