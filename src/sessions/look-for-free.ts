import { toError } from "../contract/caught-error.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Pool } from "../postgres/driver.ts";
import { arrayOf } from "../postgres/exchange.ts";
import { reserveSession } from "../postgres/reservation.ts";
import { Session, statementDeadline } from "../postgres/session.ts";
import { lookForFree } from "../postgres/sql-waiting.ts";
import { setImmediate } from "../runtime/clock.ts";
import { Stop } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "./grant.ts";

interface Look {
  readonly request: LockRequest;
  resolve(isFree: boolean | Refusal): void;
  reject(error: unknown): void;
}

/** Checks whether locks are free, with one statement for all calls in the same turn of the event loop. */
export class FreeLockChecks {
  readonly #from: { pool: Pool; wait: number };
  #looks: Look[] = [];

  /** `wait`: how long to wait for a connection, in milliseconds. */
  constructor(from: { pool: Pool; wait: number }) {
    this.#from = from;
  }

  /**
   * Whether a lock is likely to be free, so that a try is worthwhile.
   *
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {DatabaseError}
   */
  isFree(request: LockRequest): Promise<boolean | Refusal> {
    return new Promise((resolve, reject) => {
      this.#looks.push({ request, resolve, reject });
      if (this.#looks.length === 1) setImmediate(() => void this.#look(this.#looks.splice(0)));
    });
  }

  /** Sends the statement for these checks and settles them. Never rejects. */
  async #look(looks: readonly Look[]): Promise<void> {
    let session: Session | undefined;
    try {
      const left = whenAllHaveLeft(looks);
      const reserved = await reserveSession(this.#from.pool, { wait: this.#from.wait, left });
      if (!(reserved instanceof Session)) {
        for (const { request, resolve, reject } of looks) {
          if (reserved.refused !== "connection-timeout") resolve(reserved);
          else {
            const { refused: reason, waited } = reserved;
            reject(new LockNotAcquiredError({ key: request.wanted.key, reason, waited }));
          }
        }
        return;
      }
      session = reserved;
      const ids = arrayOf(looks.map(({ request }) => request.wanted.id.toString()));
      const shared = arrayOf(looks.map(({ request }) => (request.wanted.mode === "shared" ? "t" : "f")));
      const doing = "Looking for free locks";
      const { said } = await session.run<number[]>(doing, lookForFree, [ids, shared], statementDeadline);
      session.return();
      const free = new Set(said);
      looks.forEach(({ resolve }, at) => {
        resolve(free.has(at + 1));
      });
    } catch (error) {
      session?.destroy(toError(error));
      for (const { reject } of looks) reject(error);
    }
  }
}

/** A signal that aborts when none of these requests is wanted any more. */
function whenAllHaveLeft(looks: readonly Look[]): Stop {
  const allLeft = new Stop();
  let staying = looks.length;
  const leave = (): void => {
    staying -= 1;
    if (staying === 0) allLeft.abort(undefined);
  };
  for (const { request } of looks) {
    if (request.abandoned) leave();
    else request.cancel = leave;
  }
  return allLeft;
}
