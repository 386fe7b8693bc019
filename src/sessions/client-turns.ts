import type { SessionClient } from "../contract/clients.ts";
import { InvalidConfigError } from "../contract/errors.ts";
import { cancelStatement, isUnderWay } from "../postgres/cancel.ts";
import type { Client, Statement } from "../postgres/driver.ts";
import type { Stop } from "../runtime/stop-signal.ts";
import { untilAnswered } from "./until-answered.ts";

/** Runs one piece of work after the other on each client. */
export class Turns {
  /** For each client, a promise that resolves when its last turn is over. */
  readonly #last = new WeakMap<object, Promise<unknown>>();

  /** Begins `work` when the earlier turns are over. Once it has settled, `over` is called; this turn is over when `over` has settled. */
  take<T>(client: object, work: () => Promise<T>, over: () => unknown = () => {}): Promise<T> {
    const result = (this.#last.get(client) ?? Promise.resolve()).then(work);
    this.#last.set(client, result.then(over, over));
    return result;
  }

  /** Resolves when every turn that was taken so far is over. */
  async areOver(client: object): Promise<void> {
    await this.#last.get(client);
  }
}

/** One statement at a time for each client, because the driver warns of a long queue. */
const turns = new Turns();

/** Runs one statement on a client in turn, and returns its answer, however long the client takes. */
export async function sayTo<T>(
  client: SessionClient,
  { text }: Statement,
  values: Array<string | null>,
): Promise<T> {
  return answerOf<T>(client, await turns.take(client, () => client.query(text, values)));
}

/** Runs a wait of at most `bound` milliseconds inside the server, and cancels it if the caller gives up. */
export async function waitOn(
  client: SessionClient,
  text: string,
  { bound, left }: { bound: number; left: Stop },
): Promise<void> {
  const cancel = async (): Promise<void> => {
    if (isUnderWay(client, text)) await cancelStatement(client as unknown as Client);
  };
  const answer = turns.take(client, () => client.query(text, []));
  await untilAnswered({ answer, bound, signal: left, cancel });
}

/**
 * The answer of a row of a caller's client: a text, unless the library has read it as JSON by itself. It is in the column `answer`, or in
 * the only one if the library renames columns.
 *
 * @throws {InvalidConfigError} there is none
 */
export function answerOf<T>(client: unknown, result: unknown): T {
  const { rows } = (result ?? {}) as { rows?: unknown };
  const [row] = Array.isArray(rows) ? rows : [];
  const { answer = onlyOne(Object.values(row ?? {})) } = (row ?? {}) as { answer?: unknown };
  const read = typeof answer === "string" ? parsed(answer) : answer;
  // One of the two is in every answer to a client.
  if (typeof read === "object" && read !== null && ("pid" in read || "held" in read)) return read as T;
  const wants =
    "a client whose `query` resolves with `{ rows }`, their values unchanged, such as one made by `pg-locker/orm`";
  throw new InvalidConfigError({ field: "client", got: client, wants });
}

function onlyOne(values: readonly unknown[]): unknown {
  return values.length === 1 ? values[0] : undefined;
}

function parsed(answer: string): unknown {
  try {
    return JSON.parse(answer);
  } catch {
    return undefined;
  }
}
