import { toError } from "../contract/caught-error.ts";
import { DatabaseError, LockerError } from "../contract/errors.ts";
import { fencingName } from "../postgres/application-name.ts";
import { connectBeside, type OwnSession } from "../postgres/beside.ts";
import type { Pool } from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import { type DrawAnswer, drawToken, openDrawing } from "../postgres/sql.ts";
import { unrefed } from "../runtime/clock.ts";

export interface FencingTokensOptions {
  readonly pool: Pool;
  readonly namespace: number;
  /** The time-out of connecting, in milliseconds. */
  readonly connectWithin: number;
}

interface Draw {
  /** The server that granted the lock, in the form of {@link DrawAnswer.server}. */
  readonly server: string;
  resolve(token: bigint): void;
  reject(error: unknown): void;
}

/** How long the session is kept for the next draw, in milliseconds. */
const linger = 500;

//   resting ──draw()──▶ drawing ──all are served──▶ resting; after a while without a draw, without a session
//   close(), from either ──▶ closed
type State =
  | { readonly is: "resting"; readonly leaving: NodeJS.Timeout | undefined }
  | { readonly is: "drawing" }
  | { readonly is: "closed" };

/**
 * Draws the fencing tokens for locks on shared sessions, on a session that carries no lock. Its commits may hang, because of a stalled
 * disk or an absent synchronous standby; then only the lock that needs the token is lost.
 *
 * A token is drawn while the lock is held: see {@link FencingTokens.draw}. It is drawn on the server that granted the lock, because a
 * server that was promoted since would give a holder of the old server a larger token.
 */
export class FencingTokens {
  readonly #options: FencingTokensOptions;
  #state: State = { is: "resting", leaving: undefined };
  #draws: Draw[] = [];
  #opened: OwnSession | undefined;

  constructor(options: FencingTokensOptions) {
    this.#options = options;
  }

  /**
   * Draws a token for a lock that a session holds. Simultaneous calls get the same token.
   *
   * The token is larger than that of every earlier holder only if the session still held the lock when it was drawn. If the server had
   * ended the session by then, it could have granted the lock to somebody else with a smaller token, so the session is proved afterwards.
   *
   * @param server the server that granted the lock, in the form of {@link DrawAnswer.server}
   * @param prove asks the session whether it still has the lock, and rejects if not
   * @throws {DatabaseError} no token could be drawn, or the session had ended by then @throws {StandbyError} @throws {PoolerDetectedError}
   */
  async draw(server: string, prove: () => Promise<unknown>): Promise<bigint> {
    if (this.#isClosed) throw closed();
    const token = await new Promise<bigint>((resolve, reject) => {
      this.#draws.push({ server, resolve, reject });
      if (this.#state.is === "resting") void this.#drawAll(this.#state);
    });
    await prove().catch((error: unknown) => {
      // The caller asked for no proof.
      if (error instanceof DatabaseError) throw new DatabaseError({ doing: drawing, cause: error.cause });
      throw error instanceof LockerError ? error : new DatabaseError({ doing: drawing, cause: error });
    });
    return token;
  }

  /** Closes the session. Never rejects, and takes seconds at most. */
  async close(): Promise<void> {
    const before = this.#state;
    this.#state = { is: "closed" };
    if (before.is === "resting") clearTimeout(before.leaving);
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened === undefined) return;
    if (before.is === "drawing") opened.session.destroy(new Error("the locker was closed"));
    else await opened.end();
  }

  /** Serves all pending draws. Never rejects. */
  async #drawAll({ leaving }: { readonly leaving: NodeJS.Timeout | undefined }): Promise<void> {
    clearTimeout(leaving);
    this.#state = { is: "drawing" };
    while (this.#draws.length > 0) {
      const draws = this.#draws;
      this.#draws = [];
      try {
        const drawn = await this.#draw(draws);
        for (const { resolve } of draws) resolve(drawn);
      } catch (error) {
        for (const { reject } of draws) reject(error);
      }
    }
    // close() may have been called in the meantime.
    if (this.#isClosed) return;
    this.#state = { is: "resting", leaving: unrefed(setTimeout(() => void this.#leave(), linger)) };
    this.#opened?.client.unref?.();
  }

  /** Draws one token. Tries again on a new session if the present one has ended or is with another server. */
  async #draw(draws: readonly Draw[]): Promise<bigint> {
    const servers = new Set(draws.map(({ server }) => server));
    for (let tries = 1; ; tries += 1) {
      const isNew = this.#opened === undefined;
      const opened = this.#opened ?? (await this.#open());
      opened.client.ref?.();
      try {
        const { said } = await opened.session.run<DrawAnswer>(drawing, drawToken, [], statementDeadline);
        if (said.token !== null && servers.size === 1 && servers.has(said.server)) return BigInt(said.token);
        throw new DatabaseError({
          doing: drawing,
          cause: new Error("the server is not the one that granted the lock"),
        });
      } catch (error) {
        opened.session.destroy(toError(error));
        this.#opened = undefined;
        if (isNew || tries > 1) throw error;
      }
    }
  }

  async #open(): Promise<OwnSession> {
    const { pool, namespace, connectWithin } = this.#options;
    if (this.#isClosed) throw closed();
    const opened = await connectBeside(pool, { doing: drawing, milliseconds: connectWithin });
    if (this.#isClosed) {
      await opened.end();
      throw closed();
    }
    this.#opened = opened;
    await opened.session.run(drawing, openDrawing, [fencingName(namespace)], statementDeadline);
    return opened;
  }

  get #isClosed(): boolean {
    return this.#state.is === "closed";
  }

  async #leave(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.end();
  }
}

/** The operation's name in errors. */
export const drawing = "Drawing a fencing token";

function closed(): DatabaseError {
  return new DatabaseError({ doing: drawing, cause: new Error("the locker was closed") });
}
