import { randomBytes } from "node:crypto";
import type { ClaimedLock } from "../contract/lock-id-kind.ts";
import { type OwnClient, query, statement } from "../postgres/driver.ts";
import { readKeyMessage } from "../postgres/key-message.ts";
import { hearNotifications } from "../postgres/notifications.ts";
import {
  listenForAnswers,
  notify,
  questionChannel,
  replyChannel,
  stopListeningFor,
} from "../postgres/sql-answers.ts";
import { within } from "../runtime/clock.ts";

/** What the lockers have told about their shared sessions. Anybody may answer, so it need not be true. */
export interface ToldLocks {
  readonly locks: readonly (ClaimedLock & { readonly pid: number })[];
  /** The backends of the sessions of which not all was told. */
  readonly silent: ReadonlySet<number>;
}

/**
 * Asks the lockers of the database for the locks on their shared sessions, with their keys.
 *
 * During the call, the client must have its session to itself. Afterwards the session no longer listens.
 *
 * @param options.pids the backends of the sessions whose lockers are expected to answer
 * @param options.milliseconds how long to wait for the answers
 * @returns what arrived in time. Never rejects: on a standby, or if the server delays notifications, that is nothing
 */
export async function locksTold(
  client: OwnClient,
  { pids, milliseconds }: { pids: ReadonlySet<number>; milliseconds: number },
): Promise<ToldLocks> {
  const told: (ClaimedLock & { pid: number })[] = [];
  const silent = new Set(pids);
  if (silent.size === 0) return { locks: told, silent };
  const channel = replyChannel(randomBytes(16).toString("hex"));
  let allAnswered = (): void => {};
  const answered = new Promise<void>((resolve) => {
    allAnswered = resolve;
  });
  const end = hearNotifications(client, channel, (payload) => {
    const message = readKeyMessage(payload);
    if (message === undefined || !pids.has(message.pid)) return;
    const { pid, namespace } = message;
    for (const { key, id } of message.locks) told.push({ pid, namespace, key, id });
    if (message.more === 0) silent.delete(pid);
    if (silent.size === 0) allAnswered();
  });
  let isAsked = false;
  const asked = async (): Promise<void> => {
    await client.query(query(statement(listenForAnswers(channel)), []));
    await client.query(query(notify, [questionChannel, JSON.stringify([channel])]));
    isAsked = true;
    await answered;
  };
  try {
    await within(milliseconds, asked());
  } catch {
    // The answers came too late or not at all.
  } finally {
    end();
  }
  // A pooler may keep the session for its next client. It ends that of a client which leaves in the middle of a statement.
  if (isAsked)
    await within(milliseconds, client.query(query(statement(stopListeningFor(channel)), []))).catch(() => {});
  return { locks: told, silent };
}
