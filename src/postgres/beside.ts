import { DatabaseError } from "../contract/errors.ts";
import { within } from "../runtime/clock.ts";
import { clientBeside, destroySocket, type OwnClient, type Pool } from "./driver.ts";
import { Session, statementDeadline } from "./session.ts";

/** A session of ours alone, beside the pool. */
export interface OwnSession {
  readonly session: Session;
  readonly client: OwnClient;
  /** Ends it politely. Never rejects, and takes seconds at most. For one that holds no lock. */
  end(): Promise<void>;
}

/**
 * Connects beside a pool, as the pool itself would.
 *
 * @param connecting is told of the client before it has connected, so that it can be given up
 * @throws {DatabaseError} the server refused, or there was no connection within that many milliseconds
 */
export async function connectBeside(
  pool: Pool,
  { doing, milliseconds }: { doing: string; milliseconds: number },
  connecting: (client: OwnClient) => void = () => {},
): Promise<OwnSession> {
  let client: OwnClient | undefined;
  try {
    if (pool.loadDriver !== undefined) await pool.loadDriver();
    client = clientBeside(pool);
    connecting(client);
    await within(milliseconds, client.connect());
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    throw new DatabaseError({ doing, cause });
  }
  const own = client;
  // The client belongs to nobody else, so there is nowhere to give it back to.
  const session = new Session(own, () => {});
  return { session, client: own, end: () => endPolitely(session, own) };
}

async function endPolitely(session: Session, client: OwnClient): Promise<void> {
  session.return();
  await within(statementDeadline, client.end()).catch(() => destroySocket(client));
}
