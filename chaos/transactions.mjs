// The writes of the functions of `withTransaction` in the database of the locks, and the writes that an application leaves uncommitted there.
// Each transaction reads the last number of its key and writes the next: if two ran at once, both would write the same number.

export const createWritten = `
create table written (id text primary key, key int4 not null, n int4 not null);
create index on written (key, n);
create table left_open (id int8 not null)`;

/** Grants the roles access to the tables. */
export const grantWritten = (roles) => `grant select, insert on written, left_open to ${roles.join(", ")}`;

/** Reads the last number of a key, and the timeline, which identifies the server. Parameter: the key. */
export const lastWritten = `
select coalesce(max(n), 0) as n,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 as timeline
  from written where key = $1::int4`;

/** Writes a number. Parameters: id, key, number. */
export const insertWritten = "insert into written (id, key, n) values ($1::text, $2::int4, $3::int4)";

/** The statements of an application that forgets to commit. */
export const leaveOpen = "begin; insert into left_open values (1)";

/** Which of the transactions were committed, and whether one was that an application had left open. Parameter: ids. */
export const committedOf = `
select array(select id from written where id = any($1::text[])) as ids,
       exists (select from left_open) as left_open`;

/** The numbers of a key that more than one transaction has written. */
export const writtenTwice =
  "select key, n, count(*)::int4 as times from written group by key, n having count(*) > 1";
