// The witness of a recovery grace: a shared advisory lock held by sessions that know that the lock table is older than the grace.

/**
 * The `classid` of the witness; its `objid` is the recovery grace in milliseconds. Locks of `pg_advisory_lock(int, int)` have an id space
 * of their own, so no key can have the id of a witness.
 */
export const witnessClass = 0x70_67_6c_6b;

/** The two numbers of the witness. `grace`: a number, or an SQL expression for one. */
const witness = (grace: number | string): string => `${witnessClass}, ${grace}::pg_catalog.int4`;

/** Makes the session a witness. Never refused, because nobody takes this lock exclusively. */
export const takeWitness = (grace: number | string): string =>
  `pg_catalog.pg_try_advisory_lock_shared(${witness(grace)})`;

/** Makes the session a witness until the end of the transaction. */
export const takeWitnessInTransaction = (grace: number | string): string =>
  `pg_catalog.pg_try_advisory_xact_lock_shared(${witness(grace)})`;

/** Undoes one {@link takeWitness}. */
export const leaveWitness = (grace: number | string): string =>
  `pg_catalog.pg_advisory_unlock_shared(${witness(grace)})`;
