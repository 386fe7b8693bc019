import type { SendHandle } from "node:child_process";
import type { Socket } from "node:net";
import type { Pool, PoolClient } from "pg";

/** The properties of a client and a socket that their types don't declare. */
interface Inside {
  readonly connection: { readonly stream: Socket & { readonly _parent?: Socket } };
}

interface Connection {
  readonly client: PoolClient;
  readonly stream: Inside["connection"]["stream"];
  isEnded: boolean;
}

/**
 * The connection that carries the lock, in a pool of one. The pool's event tells which client that is; connections that a locker opens
 * beside the pool don't cause that event.
 */
export class LockSession {
  #connection: Connection | undefined;
  #read = 0;

  /** @param pool a pool of at most one client, without a client yet */
  constructor(pool: Pool) {
    pool.on("connect", (client) => {
      const { stream } = (client as unknown as Inside).connection;
      const connection: Connection = { client, stream, isEnded: false };
      this.#connection = connection;
      const onEnd = (): void => {
        connection.isEnded = true;
      };
      // Listens before whoever reserves the client does, and so knows of the end before the lock counts as lost.
      client.on("error", onEnd);
      client.on("end", onEnd);
    });
  }

  /**
   * The TCP or Unix socket, for a copy in another process. It is the handle inside the `Socket`, because a `Socket` that arrives in another
   * process begins to read; and the one below TLS, because it only has to be kept open.
   */
  get socket(): SendHandle | undefined {
    const stream = this.#connection?.stream;
    return ((stream?._parent ?? stream) as { _handle?: SendHandle } | undefined)?._handle;
  }

  /** Shows a text in pg_stat_activity until the next statement. Never rejects, because other statements find out if the session has gone. */
  async describe(comment: string): Promise<void> {
    await this.#connection?.client.query(comment).catch(() => {});
  }

  /** Notes that a statement is about to be sent: see {@link isSilent}. */
  asked(): void {
    this.#read = this.#connection?.stream.bytesRead ?? 0;
  }

  /** Whether the server has sent nothing since {@link asked}, and not closed the connection either: the link is dead, or very slow. */
  get isSilent(): boolean {
    return this.#connection?.isEnded === false && this.#connection.stream.bytesRead === this.#read;
  }
}
