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
 * Milliseconds left, by the clock that has moved further: the monotonic clock stands still while the machine is suspended, and the wall
 * clock can be set back.
 */
export function left(moment: Moment): number {
  const current = currentMoment();
  return Math.min(moment.monotonic - current.monotonic, moment.wall - current.wall);
}

/**
 * How many milliseconds before the server may free a lock everything that ran under it must be dead. The margin covers a timer that fires
 * late on a busy machine, the time that the kill takes, and clocks whose rates differ by 0.2 %.
 */
export function marginOf(ttl: number): number {
  return Math.min(ttl / 10, 2_000 + ttl / 500);
}
