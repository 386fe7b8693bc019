import { toError } from "../contract/caught-error.ts";
import { DatabaseError } from "../contract/errors.ts";
import { fencingName } from "../postgres/application-name.ts";
import { connectBeside, type OwnSession } from "../postgres/beside.ts";
import type { Pool } from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import { type DrawAnswer, drawToken, openDrawing } from "../postgres/sql.ts";

export interface FencingTokensOptions {
  readonly pool: Pool;
  readonly namespace: number;
  /** Milliseconds to connect in. */
  readonly connectWithin: number;
}

interface Draw {
  /** The server that granted the lock, as {@link DrawAnswer.server} tells it. */
  readonly server: string;
  resolve(token: bigint): void;
  reject(error: unknown): void;
}

/** Milliseconds that the session is kept for the next draw. */
const linger = 500;

/**
 * Draws the tokens of locks that are carried by shared sessions, on a session that carries no lock: its commits may hang, with a disk
 * that stalls or a synchronous standby that is away, and then no lock is lost but the one that was asked for.
 *
 * A token is drawn while the lock is held: see {@link FencingTokens.draw}. It is drawn on the same server, because a server that was
 * promoted meanwhile would give a larger one to a holder of the old one.
 */
export class FencingTokens {
  readonly #options: FencingTokensOptions;
  #draws: Draw[] = [];
  #isDrawing = false;
  #opened: OwnSession | undefined;
  #leaving: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: FencingTokensOptions) {
    this.#options = options;
  }

  /**
   * Draws a token for a lock that a session has. What is asked for at the same time gets the same token.
   *
   * It is larger than that of every holder before if the session had the lock until it was drawn. If the server had ended the session
   * by then, it would have granted the lock to somebody else, who may have a smaller one: so the session is proved afterwards.
   *
   * @param server the one that granted the lock, as {@link DrawAnswer.server} tells it
   * @param prove asks the session whether it has the lock still, and rejects if not
   * @throws {DatabaseError} none could be had @throws what `prove` rejects with
   */
  async draw(server: string, prove: () => Promise<unknown>): Promise<bigint> {
    const token = await new Promise<bigint>((resolve, reject) => {
      this.#draws.push({ server, resolve, reject });
      if (!this.#isDrawing) void this.#drawAll();
    });
    await prove();
    return token;
  }

  /** Never rejects, and takes seconds at most. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#leaving);
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened === undefined) return;
    if (this.#isDrawing) opened.session.destroy(new Error("the locker was closed"));
    else await opened.end();
  }

  /** Never rejects. */
  async #drawAll(): Promise<void> {
    this.#isDrawing = true;
    clearTimeout(this.#leaving);
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
    this.#isDrawing = false;
    this.#leaving = setTimeout(() => void this.#leave(), linger).unref();
    this.#opened?.client.unref?.();
  }

  /** Once more on a new session, if the one there is has ended, or is one with another server. */
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
    const opened = await connectBeside(pool, { doing: drawing, milliseconds: connectWithin });
    if (this.#isClosed) {
      await opened.end();
      throw new DatabaseError({ doing: drawing, cause: new Error("the locker was closed") });
    }
    this.#opened = opened;
    await opened.session.run(drawing, openDrawing, [fencingName(namespace)], statementDeadline);
    return opened;
  }

  async #leave(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.end();
  }
}

/** As an error has it. */
export const drawing = "Drawing a fencing token";
