import { checkElectOptions, type ElectOptions, type Leader } from "../contract/election.ts";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type { AcquireOptions, Logger } from "../contract/locker.ts";
import { longestTimer } from "../runtime/clock.ts";
import { callBegan, callEnded } from "../runtime/process-life.ts";
import { pauseFor, type StopSignal, stopSignalOf } from "../runtime/stop-signal.ts";
import type { Wanted } from "../waiting/attempt.ts";
import { runAround } from "../waiting/reentrancy.ts";
import { LeaderWatch } from "./leader-watch.ts";

/** The parts of a locker that an election uses. */
export interface ElectionParts {
  /** The object that identifies the locker to functions that run under its locks. */
  readonly owner: object;
  readonly log: Logger;
  /** Aborts when the locker begins to close. */
  readonly closing: StopSignal;
  /** Checks the key and the options. @throws {InvalidTtlError} the TTL can't be enforced */
  wanted(options: AcquireOptions): Wanted;
  /** Acquires the lock from a store that frees it when its TTL passes, whatever has become of its holder. */
  take(wanted: Wanted): Promise<Lock>;
  /** The holder of an exclusive lock, as the server shows it. */
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
}

/** The pause is up to this share longer, at random. The same factor as in client-go, Kubernetes' leader election. */
const jitter = 0.2;

/**
 * Runs an election until it is told to end:
 *
 *     standing ──elected──▶ leading ──onElected returns, or has ended after a loss──▶ pausing ──▶ standing …
 *        │                    └── onElected throws ──▶ ended: rejects
 *        └── told to end: its signal, close() ─────────▶ ended: resolves, once onElected has ended
 *
 * Only the holder of the lock leads. A process stands again only after its last term has ended, so it never does a leader's work twice
 * at once.
 *
 * @throws what `acquire` throws if waiting can't help, or what `onElected` throws
 */
export async function elect(options: ElectOptions, parts: ElectionParts): Promise<void> {
  const { signal, ttl, fencing = false, retryPeriod, onElected, onNewLeader } = checkElectOptions(options);
  const wanted = parts.wanted({
    wait: true,
    autoRefresh: true,
    fencing,
    ...(ttl !== undefined && { ttl }),
    ...(signal !== undefined && { signal }),
  });
  const toldToEnd = [stopSignalOf(signal), parts.closing];
  const isOver = (): boolean => toldToEnd.some((each) => each?.aborted);
  const watch = onNewLeader && new LeaderWatch(parts, { id: wanted.id, every: retryPeriod, onNewLeader });
  callBegan();
  try {
    while (!isOver()) {
      const lock = await parts.take(wanted);
      watch?.leads(lock);
      await lead(wanted.key, lock, { toldToEnd, onElected, parts });
      watch?.leads(undefined);
      await pauseFor(Math.min(retryPeriod * (1 + Math.random() * jitter), longestTimer), toldToEnd);
    }
  } catch (error) {
    // An election that was told to end has not failed.
    if (!toldToEnd.some((each) => each?.aborted && each.reason === error)) throw error;
  } finally {
    watch?.stop();
    callEnded();
  }
}

/** Leads until `onElected` has ended, and then resigns. @throws what `onElected` throws while it leads */
async function lead(
  key: string,
  lock: Lock,
  {
    toldToEnd,
    onElected,
    parts,
  }: Pick<ElectOptions, "onElected"> & {
    readonly toldToEnd: ReadonlyArray<StopSignal | undefined>;
    readonly parts: ElectionParts;
  },
): Promise<void> {
  const { owner, log } = parts;
  const ending = new AbortController();
  const ends = [stopSignalOf(lock.signal), ...toldToEnd].filter((each) => each !== undefined);
  const links = ends.map((each) => each.listen(() => ending.abort(each.reason)));
  // The lock may have been lost, or the election told to end, between the grant and this step.
  const already = ends.find((each) => each.aborted);
  if (already !== undefined) ending.abort(already.reason);
  log.info({ key }, "elected");
  try {
    const known = { owner, id: lock.id, by: "onElected" as const, isHeld: () => lock.held };
    // The TTL may have passed in a listener; nothing has told of that yet.
    if (already === undefined && lock.held)
      await runAround([known], () => onElected(lock, { signal: ending.signal }));
  } catch (err) {
    // Work that was told to stop may stop by throwing. That includes work that has just read `held` as false: the signal aborts in the
    // microtask after that read.
    if (!ending.signal.aborted) throw err;
    log.debug({ key, err }, "the work of a leader that was told to stop threw");
  } finally {
    for (const link of links) link.cut();
    await resign(lock);
    log.info({ key }, "no longer leading");
  }
}

/** Releases the lock. Ignores that it has already ended, or that `onElected` has released it itself. */
async function resign(lock: Lock): Promise<void> {
  await lock.release().catch((error: unknown) => {
    if (!(error instanceof LockNotHeldError)) throw error;
  });
}
