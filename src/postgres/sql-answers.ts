import { statement } from "./driver.ts";

// How somebody who looks at the locks learns the keys of those on shared sessions: it asks in a notification, and each locker tells in
// notifications of its own. PostgreSQL has no privileges for them: whoever may connect to the database may ask, and listen.

/** The channel of the questions. The payload of each names the channel for the answers. */
export const questionChannel = "pg_locker_keys";

const replyPrefix = "pg_locker_reply_";

/** @param digits 32 that nobody can guess, in hexadecimal */
export function replyChannel(digits: string): string {
  return `${replyPrefix}${digits}`;
}

/** Whether a name is that of a channel for answers: a question can't have a locker write into a channel of an application. */
export function isReplyChannel(name: string): boolean {
  return /^pg_locker_reply_[0-9a-f]{32}$/.test(name);
}

export const listenForQuestions = statement(`listen ${questionChannel}`);
export const stopListening = statement(`unlisten ${questionChannel}`);

/** For answers. @param channel one of {@link replyChannel} */
export function listenForAnswers(channel: string): string {
  if (!isReplyChannel(channel)) throw new Error("not a channel for answers");
  return `listen ${channel}`;
}

/**
 * Notifications in one transaction, which waits for no disk and no standby, as it writes nothing else; and for those of others, which are
 * written one transaction at a time, for a second at most: the lock of that is taken while it commits, when no statement_timeout runs.
 * Parameters: the channel; an array of JSON with the payloads, each below 8000 bytes.
 */
export const notify = statement(`
select pg_catalog.json_build_array(
         pg_catalog.set_config('lock_timeout', '1000', true),
         (select pg_catalog.count(pg_catalog.pg_notify($1, part.value))
            from pg_catalog.json_array_elements_text($2::pg_catalog.json) as part))::pg_catalog.text`);
