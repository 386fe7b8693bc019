import type { Client, Pool } from "./driver.ts";
import { destroySocket, query } from "./driver.ts";
import { DatabaseError, StandbyError } from "./errors.ts";
import { ping } from "./sql.ts";

/** What a pool of node-postgres makes its clients of. */
interface ClientMaker {
  readonly Client: new (options: object) => Client & { connect(): Promise<void>; end(): Promise<void> };
}

/**
 * Proves within `deadline` milliseconds that the server of a pool answers, over a connection of its own: a saturated pool
 * says nothing about the server, and a connection that lies idle in it says nothing about the next.
 *
 * @throws {DatabaseError} @throws {StandbyError} where locks live
 */
export async function pingPool(
  target: { pool: Pool; locksLiveHere: boolean },
  deadline: number,
): Promise<void> {
  const { pool, locksLiveHere } = target;
  const { Client } = pool as unknown as ClientMaker;
  let client: InstanceType<typeof Client>;
  try {
    client = new Client(pool.options);
  } catch (cause) {
    throw new DatabaseError({ doing: "Ping", cause });
  }
  // A client that fails without a listener ends the process.
  client.on("error", () => {});
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${deadline} ms`)), deadline);
  });
  try {
    const asking = client.connect().then(() => client.query(query(ping, [])));
    const { rows } = await Promise.race([asking, overdue]);
    if (locksLiveHere && rows[0]?.[0] !== "f") throw new StandbyError();
    await Promise.race([client.end(), overdue]);
  } catch (cause) {
    destroySocket(client);
    throw cause instanceof StandbyError ? cause : new DatabaseError({ doing: "Ping", cause });
  } finally {
    clearTimeout(timer);
  }
}
