import { milliseconds } from "./duration.ts";
import { InvalidConfigError } from "./errors.ts";
import type { AcquireOptions } from "./locker.ts";

const field = "holdAtLeast";

/**
 * Checks the option `holdAtLeast`. With `client` it is refused: its caller gives the client back to a pool, as it should, while the lock
 * would still be kept on it, and whoever gets the session next could take the lock a second time.
 *
 * @returns milliseconds; 0 if it is absent @throws {InvalidConfigError}
 */
export function holdAtLeastOf(options: Pick<AcquireOptions, typeof field | "client"> | undefined): number {
  const got: unknown = options?.[field];
  if (got === undefined) return 0;
  const least = milliseconds(got);
  if (least === undefined || !(least >= 0) || least === Number.POSITIVE_INFINITY) {
    const wants = 'a duration that is not negative, such as 30000 or "30s"';
    throw new InvalidConfigError({ field, got, wants });
  }
  if (least > 0 && options?.client !== undefined) {
    const wants =
      "absent with `client`: the session is the caller's, who may give it back to its pool while the lock is still kept";
    throw new InvalidConfigError({ field, got, wants });
  }
  return least;
}

/**
 * Refuses `holdAtLeast` for several locks: a call that gets only some of them gives those back, and they must not be kept.
 *
 * @throws {InvalidConfigError}
 */
export function assertNoHoldAtLeast(options: AcquireOptions | undefined): void {
  const got: unknown = options?.[field];
  if (got === undefined) return;
  throw new InvalidConfigError({ field, got, wants: "absent: it can't be used with several locks" });
}
