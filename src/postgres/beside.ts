import { databaseFailure } from "../contract/errors.ts";
import { within } from "../runtime/clock.ts";
import { clientBeside, destroySocket, type OwnClient, type Pool } from "./driver.ts";
import { Session, statementDeadline } from "./session.ts";

/** A session on a connection of the locker's own, beside the pool. */
export interface OwnSession {
  readonly session: Session;
  readonly client: OwnClient;
  /** Ends the connection with a Terminate message. For a session that holds no lock. Never rejects, and takes seconds at most. */
  end(): Promise<void>;
}

/**
 * Opens a connection beside a pool, with the pool's own settings.
 *
 * @param connecting called with the client before it has connected, so that the caller can give it up
 * @throws {DatabaseError} the server refused, or did not answer in time @throws {InvalidConfigError} the pool has no `Client`
 */
export async function connectBeside(
  pool: Pool,
  { doing, milliseconds }: { doing: string; milliseconds: number },
  connecting: (client: OwnClient) => void = () => {},
): Promise<OwnSession> {
  let client: OwnClient | undefined;
  try {
    client = await clientBeside(pool);
    connecting(client);
    await within(milliseconds, client.connect());
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    throw databaseFailure(doing, cause);
  }
  const own = client;
  // The client belongs to no pool, so there is nothing to return it to.
  const session = new Session(own, () => {});
  return { session, client: own, end: () => endPolitely(session, own) };
}

async function endPolitely(session: Session, client: OwnClient): Promise<void> {
  session.return();
  await within(statementDeadline, client.end()).catch(() => destroySocket(client));
}
