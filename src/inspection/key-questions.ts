import { randomBytes } from "node:crypto";
import { lockId } from "../contract/lock-id.ts";
import { type OwnClient, query, statement } from "../postgres/driver.ts";
import { readKeyMessage } from "../postgres/key-message.ts";
import { listenForAnswers, notify, questionChannel, replyChannel } from "../postgres/sql-answers.ts";
import { within } from "../runtime/clock.ts";

/** A key that a locker has told, with the locker's namespace. */
export interface ToldKey {
  readonly key: string;
  readonly namespace: number;
}

/**
 * Asks the lockers of the database for the keys of the locks on their shared sessions. Anybody may answer, so an answer counts only for
 * the lock whose id matches the key.
 *
 * @param options.pids the backends of the sessions whose lockers are expected to answer
 * @param options.milliseconds how long to wait for the answers
 * @returns the keys that arrived in time, by lock id. Never rejects: on a standby, or if the server delays notifications, it is empty
 */
export async function keysTold(
  client: OwnClient,
  { pids, milliseconds }: { pids: ReadonlySet<number>; milliseconds: number },
): Promise<ReadonlyMap<bigint, ToldKey>> {
  const told = new Map<bigint, ToldKey>();
  const silent = new Set(pids);
  try {
    const channel = replyChannel(randomBytes(16).toString("hex"));
    const answered = new Promise<void>((resolve) => {
      client.on("notification", ({ payload = "" }) => {
        const message = readKeyMessage(payload);
        if (message === undefined) return;
        const { namespace } = message;
        for (const key of message.keys) told.set(lockId(namespace, key), { key, namespace });
        if (message.more === 0) silent.delete(message.pid);
        if (silent.size === 0) resolve();
      });
    });
    const asked = async (): Promise<void> => {
      await client.query(query(statement(listenForAnswers(channel)), []));
      await client.query(query(notify, [questionChannel, JSON.stringify([channel])]));
      await answered;
    };
    await within(milliseconds, asked());
  } catch {
    // The answers came too late or not at all.
  }
  return told;
}
