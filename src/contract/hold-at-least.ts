import { milliseconds } from "./duration.ts";
import { InvalidConfigError } from "./errors.ts";
import type { AcquireOptions } from "./locker.ts";

const field = "holdAtLeast";

/**
 * Checks the option `holdAtLeast`. It is refused together with `client`: after the release, the caller returns the client to its pool, and
 * the lock would still be kept on that session, where the next user of the session could take it a second time.
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
 * Refuses `holdAtLeast` for several locks, because a call that gets only some of them releases those, and they must be free at once.
 *
 * @throws {InvalidConfigError}
 */
export function assertNoHoldAtLeast(options: AcquireOptions | undefined): void {
  const got: unknown = options?.[field];
  if (got === undefined) return;
  throw new InvalidConfigError({ field, got, wants: "absent: it can't be used with several locks" });
}
