import { announcedBackend, type Pool } from "../postgres/driver.ts";
import { ping } from "../postgres/sql.ts";
import { DiagnosisLine } from "./diagnosis-line.ts";

/** How often to try for another client's session: a single try can miss if others keep the pooler busy. */
const attempts = 3;

/** Asks a client for the backend that serves it at this moment. @throws {DatabaseError} */
type AskBackend = () => Promise<number>;

/**
 * Whether a transaction of a second client gets the session of the first client, which is idle. A pooler that shares sessions does
 * that even if it has nothing else to do, and the first client wouldn't notice.
 */
export async function isTaken(backend: AskBackend, other: DiagnosisLine): Promise<boolean> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const mine = await backend();
    if (!(await other.begin())) return true;
    const [, theirs] = await other.ask<[boolean, number]>(ping);
    // `theirs === mine` comes first: with a single session in the pooler, a ping of the first client would wait for the second.
    const taken = theirs === mine || mine !== (await backend());
    await other.rollback();
    if (taken) return true;
  }
  return false;
}

/**
 * Whether other clients may get the session of this one between two of its statements. Behind a pooler, it opens one more connection to
 * find out. Never rejects: the answer is true if there is no way to tell.
 *
 * @param milliseconds how long each answer may take
 */
export async function mayLoseSession(
  { pool, client, backend }: { pool: Pool; client: object; backend: AskBackend },
  milliseconds: number,
): Promise<boolean> {
  let other: DiagnosisLine | undefined;
  try {
    if ((await backend()) === announcedBackend(client)) return false;
    other = await DiagnosisLine.open(pool, milliseconds);
    return await isTaken(backend, other);
  } catch {
    return true;
  } finally {
    await other?.close();
  }
}
