import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { isObject } from "../../contract/option-checks.ts";
import type { PostgresInstallation } from "../../testing/index.ts";
import type { Claim } from "./claim.ts";
import type { OwnServerFolder } from "./folder.ts";
import { OwnPostgres, type StopMode, startDeadline } from "./postgres.ts";
import { firstLine, type KeeperAnswer, parsed, type Request, type ServerStatus } from "./visit.ts";

/** A command that has connected, and what it wants. */
interface Guest {
  readonly socket: Socket;
  readonly request: Request;
  answered: boolean;
}

type State =
  | { readonly is: "finding" }
  | { readonly is: "starting" | "stopping" }
  | { readonly is: "running"; readonly server: OwnPostgres }
  | { readonly is: "failed"; readonly sentence: string };

/** Milliseconds that a failure waits for somebody to be told: the command that started this process connects at once. */
const tellDeadline = 5_000;

/**
 * Starts the user's own PostgreSQL for the commands that connect, and stops it when it is unused.
 *
 * ```
 * finding ──► starting ──► running ── unused, or a stop ──► stopping ── nobody waits ──► over
 *    └───────────│──▲───────►│└── it has gone ──┐               │
 *                │  └───────────────────────────┴── somebody ───┘
 *                └──► failed ──► over
 * ```
 *
 * Only this class decides whether the server is in use and whether it stops, in a single step. A command that has connected keeps it
 * running, even before it has a session; one that connects later waits for the next start. So nobody finds a server that is about to stop.
 */
export class Keeper {
  readonly #claim: Claim;
  readonly #folder: OwnServerFolder;
  readonly #idleTime: number;
  readonly #guests = new Set<Guest>();
  #state: State = { is: "finding" };
  #lastUse = Date.now();
  /** Whether nobody has used the server since it was started: the next command that does is told that it was started for it. */
  #isNew = false;
  #stop: StopMode | undefined;
  #wake = () => {};

  constructor(mine: Claim, options: { folder: OwnServerFolder; idleTime: number }) {
    this.#claim = mine;
    this.#folder = options.folder;
    this.#idleTime = options.idleTime;
    mine.server.on("connection", (socket) => this.#receive(socket));
  }

  /**
   * Keeps the server running until nobody needs it any more.
   *
   * @throws whatever keeps the server from running; pass it to {@link fail}
   */
  async run(installation: PostgresInstallation, options: { mayStart: boolean }): Promise<void> {
    let isWanted = options.mayStart;
    for (;;) {
      const server = await this.#obtain(installation, isWanted);
      if (server === undefined || !this.#claim.isMine()) return;
      const state: State = { is: "running", server };
      this.#state = state;
      for (const guest of this.#guests) void this.#attend(guest);
      const mode = await this.#untilUnused(state);
      // Another keeper has taken over, which now has the server; or the folder was deleted, in which case PostgreSQL ends by itself.
      if (!this.#claim.isMine()) return;
      this.#state = { is: mode === undefined ? "starting" : "stopping" };
      if (mode !== undefined) await server.stop(mode);
      this.#stop = undefined;
      for (const guest of this.#guests)
        if (guest.request.wants === "stop") this.#answer(guest, { is: "stopped" });
      // After a crash, the commands that use the server want it back. After a stop, only those that have connected since.
      isWanted = mode === undefined && this.#users().length > 0;
    }
  }

  /** Tells all waiting commands why there is no server; if none is waiting, the first one that connects. */
  async fail(sentence: string): Promise<void> {
    this.#state = { is: "failed", sentence };
    const end = Date.now() + tellDeadline;
    const waiting = [...this.#guests].filter((guest) => !guest.answered);
    for (const guest of waiting) await this.#attend(guest);
    let told = waiting.length;
    while (told === 0 && Date.now() < end) {
      await this.#pause(end - Date.now());
      told += this.#guests.size;
    }
  }

  /** Ends every session and stops the server, because this process has received a signal. */
  interrupt(): void {
    this.#stop = "fast";
    this.#wake();
  }

  /** Lets no more commands find this keeper, and sends those that are connected away, so that they try again. */
  leave(): void {
    this.#claim.release();
    // The connections don't keep this process alive, whether or not the commands read.
    for (const { socket } of this.#guests) socket.destroySoon();
  }

  async #obtain(installation: PostgresInstallation, isWanted: boolean): Promise<OwnPostgres | undefined> {
    const isWaitedFor = () => isWanted || this.#users().some((guest) => !guest.answered);
    const deadline = isWaitedFor() ? startDeadline : Number.POSITIVE_INFINITY;
    const onWait = () => this.#stopFinding();
    const found = await OwnPostgres.find(this.#folder, { installation, deadline, onWait });
    if (found !== undefined) return found;
    if (!isWaitedFor()) return undefined;
    this.#stopFinding();
    const { server, isNew } = await OwnPostgres.start(this.#folder, { installation });
    this.#isNew = isNew;
    return server;
  }

  /** The server turned out to be starting or stopping, so `status` can be answered. */
  #stopFinding(): void {
    if (this.#state.is !== "finding") return;
    this.#state = { is: "starting" };
    for (const guest of this.#guests) void this.#attend(guest);
  }

  /** Resolves with how to stop the server; `undefined` if it has gone or accepts no more connections, or this is no longer the keeper. */
  async #untilUnused(state: State & { is: "running" }): Promise<StopMode | undefined> {
    const interval = Math.min(15_000, this.#idleTime / 4);
    let ever: bigint | undefined;
    this.#lastUse = Date.now();
    void state.server.ended.then(() => this.#wake());
    for (;;) {
      if (this.#stop !== undefined) return this.#stop;
      if (!this.#claim.isMine()) return undefined;
      const use = await state.server.use();
      if (use === undefined) return undefined;
      const isUsed = use === "unknown" || use.sessions.length > 0 || use.sessionsEver !== ever;
      if (isUsed || this.#users().length > 0) this.#lastUse = Date.now();
      else if (Date.now() - this.#lastUse >= this.#idleTime) return this.#stop ?? "smart";
      if (use !== "unknown") ever = use.sessionsEver;
      if (this.#stop === undefined) await this.#pause(interval);
    }
  }

  async #pause(milliseconds: number): Promise<void> {
    const waking = new AbortController();
    this.#wake = () => waking.abort();
    await delay(milliseconds, undefined, { signal: waking.signal }).catch(() => {});
    this.#wake = () => {};
  }

  #users(): Guest[] {
    return [...this.#guests].filter(({ request }) => request.wants === "use");
  }

  #receive(socket: Socket): void {
    socket.on("error", () => {});
    void firstLine(socket).then((line) => {
      if (line === undefined) return;
      const request = requestOf(line);
      if (request === undefined) return void socket.end(`${JSON.stringify(otherRelease)}\n`);
      const guest: Guest = { socket, request, answered: false };
      this.#guests.add(guest);
      socket.once("close", () => {
        if (guest.request.wants === "use") this.#lastUse = Date.now();
        this.#guests.delete(guest);
      });
      if (this.#state.is === "failed") this.#wake();
      void this.#attend(guest);
    });
  }

  async #attend(guest: Guest): Promise<void> {
    const state = this.#state;
    if (guest.answered || state.is === "finding") return;
    if (state.is === "failed") this.#answer(guest, { is: "failed", sentence: state.sentence });
    else if (guest.request.wants === "status")
      this.#answer(guest, { is: "status", status: await this.#status(state) });
    // While the server starts or stops, all other requests wait until it runs.
    else if (state.is === "running") await this.#serve(guest, state);
  }

  async #serve(guest: Guest, state: State & { is: "running" }): Promise<void> {
    const use = await state.server.use();
    if (this.#state !== state || guest.answered) return;
    if (use === undefined) return this.#wake();
    if (guest.request.wants === "use") {
      this.#answer(guest, { is: "ready", started: this.#isNew, idleTime: this.#idleTime });
      this.#isNew = false;
      return;
    }
    const users = this.#users().length;
    const sessions = use === "unknown" ? [] : use.sessions;
    if (guest.request.force !== true && (users > 0 || sessions.length > 0)) {
      this.#answer(guest, { is: "in-use", users, sessions });
      return;
    }
    this.#stop = guest.request.force === true ? "fast" : "smart";
    this.#state = { is: "stopping" };
    this.#wake();
  }

  async #status(state: State & { is: ServerStatus["state"] }): Promise<ServerStatus> {
    const known = { folder: this.#folder.path, keeper: process.pid, idleTime: this.#idleTime };
    const use = state.is === "running" ? await state.server.use() : undefined;
    const users = this.#users().length;
    if (state.is !== "running") return { ...known, state: state.is, users };
    const running = { ...known, state: state.is, users, pid: state.server.pid };
    if (use === undefined || use === "unknown") return running;
    const { version, since, sessions } = use;
    const idleTimeLeft = Math.max(0, this.#lastUse + this.#idleTime - Date.now());
    const isUnused = users === 0 && sessions.length === 0;
    return { ...running, version, since: since.toISOString(), sessions, ...(isUnused && { idleTimeLeft }) };
  }

  #answer(guest: Guest, answer: KeeperAnswer): void {
    guest.answered = true;
    const line = `${JSON.stringify(answer)}\n`;
    if (answer.is === "ready") guest.socket.write(line);
    else guest.socket.end(line);
  }
}

/** Parses a request; `undefined` if it isn't known, because the command is of another release. */
function requestOf(line: string): Request | undefined {
  const said = parsed(line);
  return isObject(said) && ["use", "status", "stop"].includes(String(said["wants"]))
    ? (said as unknown as Request)
    : undefined;
}

const otherRelease: KeeperAnswer = {
  is: "failed",
  sentence: "Your own PostgreSQL is kept by another release of pg-locker: stop it with that release",
};
