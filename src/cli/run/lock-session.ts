import type { SendHandle } from "node:child_process";
import type { Socket } from "node:net";
import type { Pool, PoolClient } from "pg";

/** What node-postgres and Node have of a connection, beside what their types say. */
interface Inside {
  readonly connection: { readonly stream: Socket & { readonly _parent?: Socket } };
}

/**
 * The connection of a pool of one, which carries the lock: the driver's pool says which client it has, and what a locker
 * connects beside a pool is not among them.
 */
export class LockSession {
  #stream: Inside["connection"]["stream"] | undefined;
  #client: PoolClient | undefined;
  #ended = false;
  #read = 0;

  /** @param pool of at most one client, that has none yet */
  constructor(pool: Pool) {
    pool.on("connect", (client) => {
      this.#client = client;
      this.#stream = (client as unknown as Inside).connection.stream;
      this.#ended = false;
      const onEnd = (): void => {
        this.#ended = true;
      };
      // Before whoever reserves the client listens, and so before the lock is known to be lost.
      client.on("error", onEnd);
      client.on("end", onEnd);
    });
  }

  /**
   * The TCP or Unix socket, to be copied to another process: the handle below the `Socket`, for one that arrives as a `Socket`
   * begins to read; and below TLS, for it is to be kept open, and nothing else.
   */
  get socket(): SendHandle | undefined {
    const stream = this.#stream;
    return ((stream?._parent ?? stream) as { _handle?: SendHandle } | undefined)?._handle;
  }

  /** Says something that pg_stat_activity is to show, until the next statement. Never rejects: whether the session lives, others find out. */
  async describe(comment: string): Promise<void> {
    await this.#client?.query(comment).catch(() => {});
  }

  /** Something is about to be asked: see {@link isSilent}. */
  asked(): void {
    this.#read = this.#stream?.bytesRead ?? 0;
  }

  /** Whether nothing at all has come from the server since {@link asked}, not even an end: the link is dead, or very slow. */
  get isSilent(): boolean {
    return !this.#ended && this.#stream?.bytesRead === this.#read;
  }
}
