/** The backend as it announced itself, with what a cancellation must know. */
export interface Announced {
  readonly pid: number;
  readonly secret: Buffer;
}

/** An error of the server, as a driver makes it. */
export type ServerError = Error & { readonly code: string; readonly severity: string };

/** The letters of the messages that are read. */
const backendKeyData = "K".charCodeAt(0);
const readyForQuery = "Z".charCodeAt(0);
const errorResponse = "E".charCodeAt(0);

/** A letter, and a length that counts itself. */
const headerLength = 5;

/**
 * Reads along what a server sends, beside a driver that keeps it to itself: whether the session is in a transaction, which backend
 * it is, and why the server ends it (https://www.postgresql.org/docs/current/protocol-message-formats.html).
 */
export class ServerMessages {
  announced: Announced | undefined;
  /** As of the last answer: `I` outside of a transaction, `T` in one, `E` in one that has failed. */
  transactionStatus: string | null = null;
  /** The server said that it ends the session, and why. */
  fatal: ServerError | undefined;
  #rest: Buffer = Buffer.alloc(0);
  /** Bytes of a message that nobody reads. */
  #toSkip = 0;

  /** The next bytes that came. */
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
      // Signed, as the server has it: poolers make up numbers of all 32 bits.
      this.announced = { pid: body.readInt32BE(0), secret: Buffer.from(body.subarray(4)) };
    } else if (type === readyForQuery) {
      this.transactionStatus = body.toString("latin1", 0, 1);
    } else {
      const error = errorOf(body);
      // What went before it is not what ended the session.
      if (error.severity === "FATAL" || error.severity === "PANIC") this.fatal = error;
    }
  }
}

/** https://www.postgresql.org/docs/current/protocol-error-fields.html */
function errorOf(body: Buffer): ServerError {
  const fields = new Map(
    body
      .toString("utf8")
      .split("\0")
      .map((field) => [field.slice(0, 1), field.slice(1)]),
  );
  return Object.assign(new Error(fields.get("M") ?? "the server ended the session"), {
    code: fields.get("C") ?? "",
    // Not translated, other than S.
    severity: fields.get("V") ?? fields.get("S") ?? "",
  });
}
