// The resource that the locks protect: a row for each key, which refuses a fencing token smaller than the last one, and a log of every
// accepted write.

export const createResource = `
create table resource (key text primary key, fence int8 not null);
create table writes (seq bigserial primary key, key text not null, token int8 not null)`;

/** Creates the rows. Parameter: the keys. */
export const fillResource = "insert into resource select key, 0 from unnest($1::text[]) as key";

/**
 * Writes to the resource. Parameters: key, token. Returns one row if the write is accepted. The serial number is drawn while the row of
 * the resource is locked, so it gives the order in which the writes of one key took effect.
 */
export const write = `
with accepted as (update resource set fence = $2::int8 where key = $1 and fence <= $2::int8 returning key, fence)
insert into writes (key, token) select key, fence from accepted`;

/**
 * Takes the writes since the last call, in order. Writes of a key that aren't included take effect later, because a writer keeps the row of
 * the resource locked until its commit.
 */
export const takeWrites = `
with taken as (delete from writes returning seq, key, token)
select key, token::text as token from taken order by seq`;
