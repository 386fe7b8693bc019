import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** `K` in the server's greeting: BackendKeyData. `X`: Terminate. `Z`: ReadyForQuery, with the state of the transaction. */
const [keyData, terminate, ready] = [0x4b, 0x58, 0x5a];
const idle = 0x49;
/** The last message of those that are answered with one ReadyForQuery: Sync, or a simple Query. */
const lastOfRequest = [0x53, 0x51];

/**
 * Treats sessions as a pooler does, for machines without one: it announces backends that don't exist, and gives each client a session to
 * itself, or all clients a single one, a transaction at a time. Needs a login without a password, and no TLS.
 */
export class ImitatedPooler implements AsyncDisposable {
  readonly #target: URL;
  readonly #shared: Backend | undefined;
  readonly #sockets = new Set<Socket>();
  readonly #listener: Server;
  #clients = 0;

  private constructor(target: URL, mode: "session" | "transaction") {
    this.#target = target;
    if (mode === "transaction") this.#shared = this.#backend();
    this.#listener = createServer((socket) => this.#serve(socket)).listen(0, "127.0.0.1");
  }

  static async start(url: string, mode: "session" | "transaction"): Promise<ImitatedPooler> {
    const pooler = new ImitatedPooler(new URL(url), mode);
    await once(pooler.#listener, "listening");
    return pooler;
  }

  get url(): string {
    const url = new URL(this.#target);
    url.host = `127.0.0.1:${(this.#listener.address() as AddressInfo).port}`;
    return url.href;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#listener.close(resolve));
  }

  #backend(): Backend {
    const { hostname: host, port } = this.#target;
    return new Backend(this.#kept(connect({ host, port: Number(port || 5432) })));
  }

  #kept(socket: Socket): Socket {
    this.#sockets.add(socket.on("error", () => {}));
    return socket;
  }

  #serve(socket: Socket): void {
    this.#kept(socket);
    const backend = this.#shared ?? this.#backend();
    const offset = 1_000_000 + ++this.#clients;
    let received: Buffer = Buffer.alloc(0);
    let request: Buffer[] = [];
    let started = false;
    const answer = (data: Buffer) => void socket.write(data);
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      if (!started) {
        if (received.length < 4 || received.length < received.readInt32BE(0)) return;
        const startup = received.subarray(0, received.readInt32BE(0));
        received = received.subarray(startup.length);
        started = true;
        backend.greet(socket, startup, (greeting) => answer(announcing(greeting, offset)));
      }
      const { messages, rest } = split(received);
      received = rest;
      for (const message of messages) {
        const [type = 0] = message;
        if (type === terminate) return this.#leave(backend, socket);
        request.push(message);
        if (!lastOfRequest.includes(type)) continue;
        backend.send(socket, Buffer.concat(request), answer);
        request = [];
      }
    });
    socket.on("close", () => this.#leave(backend, socket));
  }

  #leave(backend: Backend, socket: Socket): void {
    socket.end();
    if (backend !== this.#shared) backend.end();
  }
}

interface Turn {
  readonly of: Socket;
  readonly request: Buffer;
  readonly answer: (data: Buffer) => void;
}

/** A session on the server, which serves one transaction after another. */
class Backend {
  readonly #socket: Socket;
  readonly #queue: Turn[] = [];
  #greeting: Promise<Buffer> | undefined;
  #turn: Turn | undefined;
  #greeted: ((greeting: Buffer) => void) | undefined;
  /** The client whose transaction is open. */
  #owner: Socket | undefined;
  #received: Buffer = Buffer.alloc(0);
  #answered: Buffer[] = [];

  constructor(socket: Socket) {
    this.#socket = socket.on("data", (data) => this.#read(data));
  }

  /** Later clients are greeted as the first one was. */
  greet(client: Socket, startup: Buffer, answer: (greeting: Buffer) => void): void {
    this.#greeting ??= new Promise((resolve) => {
      this.#greeted = resolve;
      this.#socket.write(startup);
    });
    void this.#greeting.then((greeting) => client.writable && answer(greeting));
  }

  send(of: Socket, request: Buffer, answer: Turn["answer"]): void {
    this.#queue.push({ of, request, answer });
    this.#next();
  }

  end(): void {
    this.#socket.end(Buffer.from([terminate, 0, 0, 0, 4]));
  }

  #next(): void {
    if (this.#turn !== undefined) return;
    const at = this.#queue.findIndex(({ of }) => this.#owner === undefined || of === this.#owner);
    [this.#turn] = at === -1 ? [] : this.#queue.splice(at, 1);
    if (this.#turn !== undefined) this.#socket.write(this.#turn.request);
  }

  #read(data: Buffer): void {
    const { messages, rest } = split(Buffer.concat([this.#received, data]));
    this.#received = rest;
    for (const message of messages) {
      this.#answered.push(message);
      if (message[0] !== ready) continue;
      const answered = Buffer.concat(this.#answered);
      this.#answered = [];
      const turn = this.#turn;
      this.#turn = undefined;
      if (turn === undefined) this.#greeted?.(answered);
      else turn.answer(answered);
      this.#owner = message[5] === idle ? undefined : turn?.of;
      this.#next();
    }
  }
}

function announcing(greeting: Buffer, offset: number): Buffer {
  const { messages } = split(Buffer.from(greeting));
  const key = messages.find(([type]) => type === keyData);
  key?.writeInt32BE(key.readInt32BE(5) + offset, 5);
  return Buffer.concat(messages);
}

/** Splits off messages, each of which has a type, a length and a body. */
function split(data: Buffer): { messages: Buffer[]; rest: Buffer } {
  const messages: Buffer[] = [];
  let at = 0;
  while (at + 5 <= data.length && at + 1 + data.readInt32BE(at + 1) <= data.length) {
    const end = at + 1 + data.readInt32BE(at + 1);
    messages.push(data.subarray(at, end));
    at = end;
  }
  return { messages, rest: data.subarray(at) };
}
