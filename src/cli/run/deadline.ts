/** A moment, in milliseconds on two clocks that all processes of a machine share. */
export interface Moment {
  readonly monotonic: number;
  readonly wall: number;
}

export function currentMoment(): Moment {
  return { monotonic: Number(process.hrtime.bigint()) / 1e6, wall: Date.now() };
}

export function later(start: Moment, milliseconds: number): Moment {
  return { monotonic: start.monotonic + milliseconds, wall: start.wall + milliseconds };
}

/**
 * Milliseconds to go, on whichever clock has moved further: the monotonic one stands still while the machine is suspended, the
 * other one can be set back.
 */
export function left(moment: Moment): number {
  const current = currentMoment();
  return Math.min(moment.monotonic - current.monotonic, moment.wall - current.wall);
}

/**
 * Milliseconds before the server may free a lock, at which everything that ran under it has been killed: for a timer that is late
 * on a busy machine, for the kill itself, and for clocks that differ in rate by 0.2 %.
 */
export function marginOf(ttl: number): number {
  return Math.min(ttl / 10, 2_000 + ttl / 500);
}
