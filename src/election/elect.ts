import { checkElectOptions, type ElectOptions, type Leader } from "../contract/election.ts";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type { AcquireOptions, Logger } from "../contract/locker.ts";
import { longestTimer } from "../runtime/clock.ts";
import { pauseFor, type StopSignal, stopSignalOf } from "../runtime/stop-signal.ts";
import { runAround } from "../waiting/reentrancy.ts";
import { LeaderWatch } from "./leader-watch.ts";

/** What an election needs of the locker. */
export interface ElectionParts {
  /** The locker, as the functions that run under its locks know it. */
  readonly owner: object;
  readonly log: Logger;
  /** Aborts when the locker begins to close. */
  readonly closing: StopSignal;
  /** Whether a lock whose TTL has passed is free, whatever has become of its holder. */
  readonly freesExpired: boolean;
  /** What is asked for with the key, checked. */
  wanted(options: Pick<AcquireOptions, "ttl">): { readonly id: bigint };
  acquire(key: string, options: AcquireOptions): Promise<Lock>;
  /** Who holds a lock alone, as the server shows it. */
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
}

/** Of the pause, by chance: the factor by which others in the field (client-go) jitter theirs. */
const jitter = 0.2;

/**
 *     standing ──elected──▶ leading ──onElected returns, or has come to its end after a loss──▶ pausing ──▶ standing …
 *        │                    └── onElected throws ──▶ ended: rejects
 *        └── told to end: its signal, close() ─────────▶ ended: resolves, once onElected has come to its end
 *
 * Nobody but the holder of the lock leads. A process stands again only when its last term has come to its end, so that it is never at
 * work twice.
 *
 * @throws what `acquire` throws and no waiting mends, or what `onElected` throws
 */
export async function elect(key: string, options: ElectOptions, parts: ElectionParts): Promise<void> {
  const { signal, ttl, fencing = false, retryPeriod, onElected, onNewLeader } = checkElectOptions(options);
  const { id } = parts.wanted(ttl === undefined ? {} : { ttl });
  if (!parts.freesExpired) {
    const warning = `elect without ttlEnforcement: "server": a leader that is cut off may not be replaced`;
    parts.log.warn({ key }, warning);
  }
  const toldToEnd = [stopSignalOf(signal), parts.closing];
  const isOver = (): boolean => toldToEnd.some((each) => each?.aborted);
  const wanted: AcquireOptions = {
    wait: true,
    autoRefresh: true,
    fencing,
    ...(ttl !== undefined && { ttl }),
    ...(signal !== undefined && { signal }),
  };
  const watch = onNewLeader && new LeaderWatch(parts, { id, every: retryPeriod, onNewLeader });
  try {
    while (!isOver()) {
      const lock = await parts.acquire(key, wanted);
      watch?.leads(lock);
      await lead(key, lock, { toldToEnd, onElected, parts });
      watch?.leads(undefined);
      await pauseFor(Math.min(retryPeriod * (1 + Math.random() * jitter), longestTimer), toldToEnd);
    }
  } catch (error) {
    // Being told to end is how an election ends; it is no failure.
    if (!toldToEnd.some((each) => each?.aborted && each.reason === error)) throw error;
  } finally {
    watch?.stop();
  }
}

/** Leads until `onElected` has come to its end, and then resigns. @throws what `onElected` throws of itself */
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
  // It may have been lost, or told to end, between its grant and this step.
  const already = ends.find((each) => each.aborted);
  if (already !== undefined) ending.abort(already.reason);
  log.info({ key }, "elected");
  try {
    const known = { owner, id: lock.id, isHeld: () => lock.held };
    if (already === undefined) await runAround([known], () => onElected(lock, { signal: ending.signal }));
  } catch (err) {
    // The work was told to stop, and this is how it did. So it was if it found by asking that the lock had ended: the signal aborts in the
    // microtask after that.
    if (!ending.signal.aborted) throw err;
    log.debug({ key, err }, "the work of a leader that had to stop has thrown");
  } finally {
    for (const link of links) link.cut();
    await resign(lock);
    log.info({ key }, "no longer leading");
  }
}

/** A lock that has ended is passed over, as is one that `onElected` has given back itself. */
async function resign(lock: Lock): Promise<void> {
  await lock.release().catch((error: unknown) => {
    if (!(error instanceof LockNotHeldError)) throw error;
  });
}
