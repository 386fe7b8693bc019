import { setTimeout as delay } from "node:timers/promises";
import { PoolerDetectedError } from "../contract/errors.ts";
import type { Logger } from "../contract/locker.ts";
import { within } from "../runtime/clock.ts";
import { announcedBackend, clientBeside, destroySocket, type OwnClient, type Pool, query } from "./driver.ts";
import { statementDeadline } from "./session.ts";
import { listen, markWaiting, openListener, ping, unmarkWaiting } from "./sql.ts";

/** What tells a locker that a lock was given back elsewhere. A hint, which may be in vain, late or lost. */
export interface WakeUps {
  /** Asks to be told, by `Waiters.wake`, of every release from some moment on; that moment itself is told as well. */
  watch(id: bigint): void;
  unwatch(id: bigint): void;
}

/** Milliseconds between two attempts to connect. Meanwhile those who wait poll. */
const pause = 1_000;
/**
 * Milliseconds until a marker that nobody wants any more is taken away. Whoever has just got the lock is not to wait for
 * that; and where a crowd hands the lock on, the next in line often wants it again at once.
 */
const grace = 10;
/** Milliseconds that the session is kept when nobody waits any more. */
const linger = 10_000;
/** Milliseconds without a word from the server, after which a watch that is asked for again makes sure that it lives. */
const silence = 10_000;

export interface ListenerParts {
  readonly pool: Pool;
  /** `application_name`. */
  readonly name: string;
  readonly trustPooler: boolean;
  readonly log: Logger;
  /** A lock may have been given back. */
  readonly onRelease: (id: bigint) => void;
  /** Any lock may have been: the session that would have told has gone. */
  readonly onGone: () => void;
}

/**
 * The one session of a locker that hears of releases elsewhere. It carries no lock but the markers of who waits, is made
 * beside the pool when somebody first waits, and goes when nobody has for a while.
 *
 * What is wanted and what is so are two sets; one loop makes the second follow the first, so that a thousand who come and go
 * in one moment cost nothing. Where the session can't be had, or dies, it is made anew when a watch is next asked for, which
 * whoever waits does with each look.
 */
export class Listener implements WakeUps {
  readonly #parts: ListenerParts;
  readonly #wanted = new Set<bigint>();
  readonly #marked = new Set<bigint>();
  /** Where the two may differ. */
  readonly #changed = new Set<bigint>();
  #client: OwnClient | undefined;
  /** The one that is being connected. */
  #opening: OwnClient | undefined;
  #busy = false;
  #working: Promise<void> | undefined;
  #heardAt = 0;
  #notBefore = 0;
  /** Said once, until it works again. */
  #failing = false;
  #closed = false;
  #lingering: NodeJS.Timeout | undefined;
  #sweeping: NodeJS.Timeout | undefined;

  constructor(parts: ListenerParts) {
    this.#parts = parts;
  }

  watch(id: bigint): void {
    if (this.#closed) return;
    this.#wanted.add(id);
    if (this.#marked.has(id) && performance.now() - this.#heardAt < silence) return;
    this.#change(id);
  }

  unwatch(id: bigint): void {
    if (!this.#wanted.delete(id)) return;
    this.#sweeping ??= setTimeout(() => {
      this.#sweeping = undefined;
      for (const each of this.#marked) if (!this.#wanted.has(each)) this.#change(each);
    }, grace).unref();
  }

  /** Ends the session, within seconds. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#lingering);
    clearTimeout(this.#sweeping);
    const client = this.#client;
    if (client !== undefined && !this.#busy) {
      this.#forget(client);
      await within(statementDeadline, client.end()).catch(() => destroySocket(client));
      return;
    }
    // What is under way need not come to its end.
    for (const one of [client, this.#opening]) if (one !== undefined) destroySocket(one);
    await this.#working;
  }

  #change(id: bigint): void {
    this.#changed.add(id);
    if (this.#busy) return;
    this.#busy = true;
    this.#working = this.#catchUp();
  }

  /** Makes the markers those that are wanted. Never rejects. */
  async #catchUp(): Promise<void> {
    try {
      for (const id of this.#changed) {
        this.#changed.delete(id);
        if (this.#wanted.has(id)) await this.#mark(id);
        else await this.#unmark(id);
      }
      this.#rest();
    } catch (error) {
      this.#drop(this.#client, error);
    } finally {
      // In the very step in which the loop found nothing more to do, or a change made meanwhile would be left lying.
      this.#busy = false;
    }
  }

  async #mark(id: bigint): Promise<void> {
    const client = this.#client ?? (await this.#open());
    if (client === undefined) return;
    if (this.#marked.has(id)) {
      await this.#ask(client, ping);
      return;
    }
    // A release that probes the marker right now has it for the length of its statement, and tells of nothing later.
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const [taken] = await this.#ask(client, markWaiting, id);
      if (taken === "t") {
        this.#marked.add(id);
        // Whoever asked for it may have left meanwhile, and been looked for among the marked in vain.
        if (!this.#wanted.has(id)) this.#changed.add(id);
        break;
      }
      await delay(attempt);
    }
    this.#parts.onRelease(id);
  }

  async #unmark(id: bigint): Promise<void> {
    // First the books: whoever asks for the watch meanwhile has to be marked anew.
    if (this.#client === undefined || !this.#marked.delete(id)) return;
    await this.#ask(this.#client, unmarkWaiting, id);
  }

  async #ask(client: OwnClient, statement: typeof listen, id?: bigint): Promise<readonly (string | null)[]> {
    const values = id === undefined ? [] : [id.toString()];
    const { rows } = await within(statementDeadline, client.query(query(statement, values)));
    this.#heardAt = performance.now();
    return rows[0] ?? [];
  }

  /** `undefined` where the last attempt was too short a time ago. */
  async #open(): Promise<OwnClient | undefined> {
    const { pool, name, trustPooler, onRelease } = this.#parts;
    if (performance.now() < this.#notBefore || this.#closed) return undefined;
    this.#notBefore = performance.now() + pause;
    const client = clientBeside(pool);
    client.on("error", (error) => this.#dropCurrent(client, error));
    client.on("end", () => this.#dropCurrent(client, new Error("the connection was closed")));
    client.on("notification", ({ payload = "" }) => {
      this.#heardAt = performance.now();
      // Anybody may notify anything.
      if (/^-?\d{1,19}$/.test(payload)) onRelease(BigInt(payload));
    });
    this.#opening = client;
    try {
      await within(statementDeadline, client.connect());
      const announced = trustPooler ? undefined : announcedBackend(client);
      const values = [name, announced ?? null];
      const { rows } = await within(statementDeadline, client.query(query(openListener, values)));
      const [pid] = JSON.parse(String(rows[0]?.[0])) as [number];
      if (announced !== undefined && announced !== pid) {
        throw new PoolerDetectedError({ announced, actual: pid });
      }
      await this.#ask(client, listen);
    } catch (error) {
      destroySocket(client);
      throw error;
    } finally {
      this.#opening = undefined;
    }
    this.#client = client;
    this.#failing = false;
    return client;
  }

  /** What to do while there is nothing to do. */
  #rest(): void {
    clearTimeout(this.#lingering);
    const client = this.#client;
    if (client === undefined) return;
    if (this.#wanted.size > 0) {
      client.ref?.();
      return;
    }
    client.unref?.();
    this.#lingering = setTimeout(() => {
      if (this.#wanted.size > 0 || this.#busy) return;
      this.#forget(client);
      client.end().catch(() => {});
    }, linger).unref();
  }

  #dropCurrent(client: OwnClient, error: Error): void {
    if (client === this.#client) this.#drop(client, error);
  }

  /** There is no session, or it can't be trusted to tell anything any more. */
  #drop(client: OwnClient | undefined, err: unknown): void {
    if (!this.#closed && !this.#failing) {
      this.#parts.log.warn({ err }, "cannot hear of releases; until that is mended, waiters poll");
    }
    this.#failing = true;
    if (client === undefined) return;
    this.#forget(client);
    destroySocket(client);
    this.#parts.onGone();
  }

  #forget(client: OwnClient): void {
    if (client !== this.#client) return;
    this.#client = undefined;
    this.#marked.clear();
  }
}
