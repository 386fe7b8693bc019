import { milliseconds } from "./duration.ts";
import { InvalidConfigError } from "./errors.ts";
import type { AcquireOptions } from "./locker.ts";

const field = "holdAtLeast";

/** @returns milliseconds; 0 if nothing was asked @throws {InvalidConfigError} */
export function holdAtLeastOf(options: Pick<AcquireOptions, typeof field> | undefined): number {
  const got: unknown = options?.[field];
  if (got === undefined) return 0;
  const least = milliseconds(got);
  if (least === undefined || !(least >= 0) || least === Number.POSITIVE_INFINITY) {
    const wants = 'a duration that is not negative, such as 30000 or "30s"';
    throw new InvalidConfigError({ field, got, wants });
  }
  return least;
}

/** Several locks are taken and given back together, also those that nobody got to use. @throws {InvalidConfigError} */
export function assertNoHoldAtLeast(options: AcquireOptions | undefined): void {
  const got: unknown = options?.[field];
  if (got === undefined) return;
  throw new InvalidConfigError({ field, got, wants: "absent: several locks at once are not kept longer" });
}
