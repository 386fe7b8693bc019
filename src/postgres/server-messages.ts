/** The backend's announcement of itself: its pid, and the secret key for a cancellation. */
export interface Announced {
  readonly pid: number;
  readonly secret: Buffer;
}

/** An error that the server sent, in the form that drivers give it. */
export type ServerError = Error & { readonly code: string; readonly severity: string };

/** The type letters of the messages that are read. */
const backendKeyData = "K".charCodeAt(0);
const readyForQuery = "Z".charCodeAt(0);
const errorResponse = "E".charCodeAt(0);

/** The length of a message header in bytes: the type letter, and the message's length, which includes its own four bytes. */
const headerLength = 5;

/**
 * Reads a server's messages alongside a driver that doesn't expose them: whether the session is in a transaction, which backend serves
 * it, and why the server ended it (https://www.postgresql.org/docs/current/protocol-message-formats.html).
 */
export class ServerMessages {
  announced: Announced | undefined;
  /** The transaction status of the last answer: `I` outside a transaction, `T` in one, `E` in one that has failed. */
  transactionStatus: string | null = null;
  /** The error with which the server ended the session, if it did. */
  fatal: ServerError | undefined;
  #rest: Buffer = Buffer.alloc(0);
  /** Bytes left to skip of a message that isn't needed. */
  #toSkip = 0;

  /** Reads the next bytes that arrived. */
  read(bytes: Buffer): void {
    let data = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    for (;;) {
      const skipped = Math.min(this.#toSkip, data.length);
      this.#toSkip -= skipped;
      data = data.subarray(skipped);
      if (data.length < headerLength) break;
      const type = data[0];
      const length = 1 + data.readUInt32BE(1);
      if (type !== backendKeyData && type !== readyForQuery && type !== errorResponse) {
        this.#toSkip = length;
        continue;
      }
      if (data.length < length) break;
      this.#take(type, data.subarray(headerLength, length));
      data = data.subarray(length);
    }
    this.#rest = data;
  }

  #take(type: number, body: Buffer): void {
    if (type === backendKeyData) {
      // Signed, as in the server: poolers invent numbers that use all 32 bits.
      this.announced = { pid: body.readInt32BE(0), secret: Buffer.from(body.subarray(4)) };
    } else if (type === readyForQuery) {
      this.transactionStatus = body.toString("latin1", 0, 1);
    } else {
      const error = errorOf(body);
      // An earlier error is not what ended the session.
      if (error.severity === "FATAL" || error.severity === "PANIC") this.fatal = error;
    }
  }
}

/** Parses the body of an ErrorResponse (https://www.postgresql.org/docs/current/protocol-error-fields.html). */
function errorOf(body: Buffer): ServerError {
  const fields = new Map(
    body
      .toString("utf8")
      .split("\0")
      .map((field) => [field.slice(0, 1), field.slice(1)]),
  );
  return Object.assign(new Error(fields.get("M") ?? "the server ended the session"), {
    code: fields.get("C") ?? "",
    // V is never translated; S is.
    severity: fields.get("V") ?? fields.get("S") ?? "",
  });
}
