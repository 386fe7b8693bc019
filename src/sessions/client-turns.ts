import type { SessionClient } from "../contract/clients.ts";
import { InvalidConfigError } from "../contract/errors.ts";
import { cancelStatement, isUnderWay } from "../postgres/cancel.ts";
import type { Client, Statement } from "../postgres/driver.ts";
import type { Stop } from "../runtime/stop-signal.ts";
import { answerOf } from "./conversation.ts";
import { untilAnswered } from "./transaction-lock.ts";

/** By client, what ends with the last of what we have said to it. The driver doesn't like a queue: it warns of one that is long. */
const turns = new WeakMap<object, Promise<unknown>>();

function inTurn<T>(client: object, work: () => Promise<T>): Promise<T> {
  const result = (turns.get(client) ?? Promise.resolve()).then(work);
  const turn = result.catch(() => {});
  turns.set(client, turn);
  return result;
}

/** One statement, and its answer, however long the client takes. */
export async function sayTo<T>(
  client: SessionClient,
  { text }: Statement,
  values: Array<string | null>,
): Promise<T> {
  const answer = answerOf(await inTurn(client, () => client.query(text, values)));
  if (answer !== undefined) return answer as T;
  const wants = "a client whose `query` resolves with `{ rows }`";
  throw new InvalidConfigError({ field: "client", got: client, wants });
}

/** A wait in the server, which is cancelled if the caller leaves. */
export async function waitOn(client: SessionClient, text: string, left: Stop): Promise<void> {
  const cancel = async (): Promise<void> => {
    if (isUnderWay(client, text)) await cancelStatement(client as unknown as Client);
  };
  const asked = inTurn(client, () => client.query(text, []));
  await untilAnswered(asked, left, cancel);
}
