// What the locks protect: a row for each key, which refuses a fencing token smaller than the last one, and the log of every
// write that it accepted.

export const createResource = `
create table resource (key text primary key, fence int8 not null);
create table writes (seq bigserial primary key, key text not null, token int8 not null)`;

/** Parameter: the keys. */
export const fillResource = "insert into resource select key, 0 from unnest($1::text[]) as key";

/**
 * Parameters: key, token. One row: accepted. The serial number is drawn while the row of the resource is locked, so that it
 * gives the order in which the writes of one key took effect.
 */
export const write = `
with accepted as (update resource set fence = $2::int8 where key = $1 and fence <= $2::int8 returning key, fence)
insert into writes (key, token) select key, fence from accepted`;

/**
 * Takes what was written since the last time, in order. Those of one key that aren't there yet take effect later: whoever writes holds
 * the row of the resource until then.
 */
export const takeWrites = `
with taken as (delete from writes returning seq, key, token)
select key, token::text as token from taken order by seq`;
