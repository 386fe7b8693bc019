import { sentenceOf } from "../contract/caught-error.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";

/** A notification as the driver delivers it. */
interface Notification {
  readonly channel: string;
  readonly payload?: string | undefined;
}

/** What a client has that the types of a pool and of its clients don't require. */
interface NotifiedClient {
  on(event: "notification", listener: (message: Notification) => void): unknown;
  removeListener(event: "notification", listener: (message: Notification) => void): unknown;
}

/**
 * Calls `hear` with the payload of each notification on a channel. Anybody who can connect to the database may send one, and an error in a
 * listener of the driver would end the process. So an error of `hear` is only written to the debug log.
 *
 * @returns a function that stops it
 */
export function hearNotifications(
  client: object,
  channel: string,
  hear: (payload: string) => void,
): () => void {
  const listener = (message: Notification): void => {
    if (message.channel !== channel) return;
    try {
      hear(message.payload ?? "");
    } catch (error) {
      if (isDebugged) debug("notification passed over", { channel, error: sentenceOf(error) });
    }
  };
  const notified = client as NotifiedClient;
  notified.on("notification", listener);
  return () => void notified.removeListener("notification", listener);
}
