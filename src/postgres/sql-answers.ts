import { statement } from "./driver.ts";

// How a process that lists locks learns the keys of locks on shared sessions: it asks in a notification, and each locker answers in
// notifications. PostgreSQL has no privileges for notifications: anyone who can connect to the database may ask and listen.

/** The channel for questions. The payload of a question names the channel for its answers. */
export const questionChannel = "pg_locker_keys";

const replyPrefix = "pg_locker_reply_";

/** The name of a channel for answers. @param digits 32 hexadecimal digits that nobody can guess */
export function replyChannel(digits: string): string {
  return `${replyPrefix}${digits}`;
}

/** Whether a name is that of a channel for answers, so that no question can make a locker notify an application's own channel. */
export function isReplyChannel(name: string): boolean {
  return /^pg_locker_reply_[0-9a-f]{32}$/.test(name);
}

export const listenForQuestions = statement(`listen ${questionChannel}`);
export const stopListening = statement(`unlisten ${questionChannel}`);

/** The statement that listens for answers. @param channel a name made by {@link replyChannel} */
export function listenForAnswers(channel: string): string {
  if (!isReplyChannel(channel)) throw new Error("not a channel for answers");
  return `listen ${channel}`;
}

/** The statement that ends {@link listenForAnswers}. */
export function stopListeningFor(channel: string): string {
  if (!isReplyChannel(channel)) throw new Error("not a channel for answers");
  return `unlisten ${channel}`;
}

/**
 * Sends notifications in one transaction. It waits for neither disk nor standby, because it writes nothing else. It waits for the
 * notifications of others for a second at most: the server writes them one transaction at a time, under a lock that is taken during the
 * commit, when statement_timeout doesn't apply. Parameters: the channel; a JSON array of the payloads, each below 8000 bytes.
 */
export const notify = statement(`
select pg_catalog.json_build_array(
         pg_catalog.set_config('lock_timeout', '1000', true),
         (select pg_catalog.count(pg_catalog.pg_notify($1, part.value))
            from pg_catalog.json_array_elements_text($2::pg_catalog.json) as part))::pg_catalog.text`);
