import { DatabaseError, PoolerDetectedError, StandbyError } from "../contract/errors.ts";
import { within } from "../runtime/clock.ts";
import {
  announcedBackend,
  clientBeside,
  destroySocket,
  isEnding,
  type OwnClient,
  type Pool,
  query,
} from "./driver.ts";
import { ping } from "./sql.ts";

export interface PingTarget {
  readonly pool: Pool;
  readonly locksLiveHere: boolean;
  readonly trustPooler: boolean;
}

/**
 * Proves within `deadline` milliseconds that a pool's server answers, over a new connection beside the pool: a saturated pool says
 * nothing about the server, and an idle connection says nothing about the next one.
 *
 * @throws {DatabaseError} the server did not answer, or answered with an error
 * @throws {StandbyError} @throws {PoolerDetectedError} only for the pool of the locks
 */
export async function pingPool(target: PingTarget, deadline: number): Promise<void> {
  let client: OwnClient | undefined;
  try {
    // An ended pool can carry no lock, whatever its server answers.
    if (isEnding(target.pool)) throw new Error("the pool has been ended");
    if (target.pool.loadDriver !== undefined) await target.pool.loadDriver();
    client = clientBeside(target.pool);
    await within(deadline, ask(client, target));
  } catch (cause) {
    if (client !== undefined) destroySocket(client);
    const known = cause instanceof StandbyError || cause instanceof PoolerDetectedError;
    throw known ? cause : new DatabaseError({ doing: "Ping", cause });
  }
}

async function ask(client: OwnClient, { locksLiveHere, trustPooler }: PingTarget): Promise<void> {
  await client.connect();
  const { rows } = await client.query(query(ping, []));
  const [standby, actual] = JSON.parse(String(rows[0]?.[0])) as [boolean, number];
  const announced = announcedBackend(client) ?? actual;
  if (locksLiveHere && standby) throw new StandbyError();
  if (locksLiveHere && !trustPooler && announced !== actual) {
    throw new PoolerDetectedError({ announced, actual });
  }
  await client.end();
}
