import type { Socket } from "node:net";
import { within } from "../runtime/clock.ts";
import type { PostgresJsOptions } from "./postgres-js.ts";
import type { Announced } from "./server-messages.ts";
import { openSocket, type ServerAddress } from "./server-socket.ts";

/** Milliseconds that a cancellation may take in all. */
const deadline = 5_000;

/** Cancels the statement that a backend is running, as `cancelStatement` of `cancel.ts` does over node-postgres. Never rejects. */
export async function cancelAt(
  options: PostgresJsOptions,
  address: ServerAddress,
  announced: Announced,
): Promise<void> {
  let socket: Socket | undefined;
  let isOver = false;
  const cancel = async (): Promise<void> => {
    const connected = await openSocket(options, address, (opened) => {
      socket = opened;
      opened.on("error", () => {});
      if (!isOver) return;
      // So late, it would hit another statement.
      opened.destroy();
      throw new Error("the cancellation is too late");
    });
    const closed = new Promise<void>((resolve) => connected.once("close", resolve));
    connected.resume();
    connected.write(cancelRequest(announced));
    await closed;
  };
  try {
    await within(deadline, cancel());
  } catch {
    // A reset discards what the system has not sent yet.
    socket?.resetAndDestroy?.();
  } finally {
    isOver = true;
    socket?.destroy();
  }
}

/** The message of a cancellation: https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-CANCELREQUEST */
function cancelRequest({ pid, secret }: Announced): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32BE(head.length + secret.length, 0);
  head.writeUInt32BE(80877102, 4);
  head.writeInt32BE(pid, 8);
  return Buffer.concat([head, secret]);
}
