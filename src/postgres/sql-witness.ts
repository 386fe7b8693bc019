// The witness of a recovery grace: a shared advisory lock of sessions that know the lock table to be older than the grace.

/**
 * `classid` of the witness, whose `objid` is the recovery grace in milliseconds. It is of the two 32-bit numbers of
 * `pg_advisory_lock(int, int)`, which are a space of their own: no key has an id there.
 */
export const witnessClass = 0x70_67_6c_6b;

/** `grace`: a number, or an expression for one. */
const witness = (grace: number | string): string => `${witnessClass}, ${grace}::pg_catalog.int4`;

/** Makes the session a witness; never refused. */
export const takeWitness = (grace: number | string): string =>
  `pg_catalog.pg_try_advisory_lock_shared(${witness(grace)})`;

/** Takes the witness until the end of the transaction. */
export const takeWitnessInTransaction = (grace: number | string): string =>
  `pg_catalog.pg_try_advisory_xact_lock_shared(${witness(grace)})`;

/** Undoes one {@link takeWitness}. */
export const leaveWitness = (grace: number | string): string =>
  `pg_catalog.pg_advisory_unlock_shared(${witness(grace)})`;
