// The journal that a worker writes while it works, and its reader. Records have 48 bytes. Each is handed to the kernel before the next step,
// so that a SIGKILL loses none.
//
//     byte 0   what           2  key         4  id          8  time            16  since            24  token
//     byte 1   how                                             ms                  ms
//     byte 32  ttl, ms; length of a text, which follows        36  a number more
import { closeSync, openSync, readSync, writeSync } from "node:fs";

const size = 48;

/** The kinds of records. */
const whats = [
  // A lock was held when its holder first read `held`.
  "claim",
  // At that time `held` was true for every claim that isn't over.
  "tick",
  // A claim was held when its holder decided something.
  "held",
  // A claim was last held at that time, and is no longer checked.
  "over",
  // How a claim ended.
  "end",
  // A write with the token of a claim was answered.
  "put",
  // From here on a lock may be in the server without a claim: the lock of an incomplete group, or of a transaction.
  "pending",
  "settled",
  // An attempt is over without a claim, and its lock was granted, or may have been: the server may have it for a while from here on.
  "unclaimed",
  // The function of a transaction was called; it has ended; and the outcome of the transaction.
  "entered",
  "left",
  "outcome",
  // A text with its number; and how often that text was counted since the last time.
  "name",
  "count",
  "wrong",
];

const hows = [
  "",
  "exclusive",
  "shared",
  "released",
  "expired",
  "lost",
  "accepted",
  "late, accepted",
  "refused",
  "late, refused",
  "committed",
  "not committed",
  "unknown",
];

const codeOf = (list, text) => {
  const code = list.indexOf(text);
  if (code === -1) throw new Error(`no such word in a journal: ${text}`);
  return code;
};

export class Journal {
  #file;
  #record = Buffer.alloc(size);
  #names = new Map();
  #counts = new Map();

  constructor(path) {
    this.#file = openSync(path, "a");
  }

  note(what, { how = "", key = 0, of = 0, at = 0, since = 0, token = 0n, ttl = 0, more = 0 }) {
    const record = this.#record;
    record.writeUInt8(codeOf(whats, what), 0);
    record.writeUInt8(codeOf(hows, how), 1);
    record.writeUInt16LE(key, 2);
    record.writeUInt32LE(of, 4);
    record.writeDoubleLE(at, 8);
    record.writeDoubleLE(since, 16);
    record.writeBigInt64LE(token, 24);
    record.writeUInt32LE(ttl, 32);
    record.writeUInt32LE(more, 36);
    writeSync(this.#file, record);
  }

  /** Counts an event. The counts are written with the next tick. */
  count(name) {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  wrong(sentence) {
    this.#text("wrong", sentence, 0);
  }

  tick(at) {
    for (const [name, more] of this.#counts) {
      let number = this.#names.get(name);
      if (number === undefined) {
        number = this.#names.size;
        this.#names.set(name, number);
        this.#text("name", name, number);
      }
      this.note("count", { of: number, more });
    }
    this.#counts.clear();
    this.note("tick", { at });
  }

  #text(what, text, of) {
    const bytes = Buffer.from(text);
    const record = Buffer.alloc(size + bytes.length);
    record.writeUInt8(codeOf(whats, what), 0);
    record.writeUInt32LE(of, 4);
    record.writeUInt32LE(bytes.length, 32);
    bytes.copy(record, size);
    writeSync(this.#file, record);
  }
}

/** Reads a journal while it grows. */
export class JournalReader {
  #path;
  #file;
  #rest = Buffer.alloc(0);
  #chunk = Buffer.alloc(1 << 16);
  #names = [];

  constructor(path) {
    this.#path = path;
  }

  /** Yields the records that were written since the last call. */
  *read() {
    for (;;) {
      const bytes = this.#more();
      if (bytes === undefined) return;
      let at = 0;
      while (at + size <= bytes.length) {
        const what = whats[bytes.readUInt8(at)];
        const isText = what === "name" || what === "wrong";
        const length = size + (isText ? bytes.readUInt32LE(at + 32) : 0);
        if (at + length > bytes.length) break;
        const of = bytes.readUInt32LE(at + 4);
        const text = isText ? bytes.toString("utf8", at + size, at + length) : undefined;
        if (what === "name") this.#names[of] = text;
        else if (what === "wrong") yield { what, text };
        else if (what === "count") yield { what, text: this.#names[of], more: bytes.readUInt32LE(at + 36) };
        else
          yield {
            what,
            how: hows[bytes.readUInt8(at + 1)],
            key: bytes.readUInt16LE(at + 2),
            of,
            at: bytes.readDoubleLE(at + 8),
            since: bytes.readDoubleLE(at + 16),
            token: bytes.readBigInt64LE(at + 24),
            ttl: bytes.readUInt32LE(at + 32),
            more: bytes.readUInt32LE(at + 36),
          };
        at += length;
      }
      this.#rest = Buffer.from(bytes.subarray(at));
    }
  }

  close() {
    if (this.#file !== undefined) closeSync(this.#file);
  }

  #more() {
    try {
      this.#file ??= openSync(this.#path, "r");
    } catch {
      // The journal doesn't exist yet, or its worker was killed before it wrote any.
      return undefined;
    }
    const read = readSync(this.#file, this.#chunk);
    return read === 0 ? undefined : Buffer.concat([this.#rest, this.#chunk.subarray(0, read)]);
  }
}
