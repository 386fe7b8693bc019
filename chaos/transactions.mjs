// What the functions of `withTransaction` write, in the database of the locks, and what an application leaves uncommitted there. Each
// transaction reads the last number of its key and writes the next: if two were inside at once, both write the same.

export const createWritten = `
create table written (id text primary key, key int4 not null, n int4 not null);
create index on written (key, n);
create table left_open (id int8 not null)`;

/** Parameter: the roles. */
export const grantWritten = (roles) => `grant select, insert on written, left_open to ${roles.join(", ")}`;

/** Parameter: the key. The timeline says which server it is. */
export const lastWritten = `
select coalesce(max(n), 0) as n,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 as timeline
  from written where key = $1::int4`;

/** Parameters: id, key, number. */
export const insertWritten = "insert into written (id, key, n) values ($1::text, $2::int4, $3::int4)";

/** What an application does that forgets to commit. */
export const leaveOpen = "begin; insert into left_open values (1)";

/** Parameter: ids. Those of them that were committed; and whether anything was that an application had left open. */
export const committedOf = `
select array(select id from written where id = any($1::text[])) as ids,
       exists (select from left_open) as left_open`;

/** The numbers of a key that two transactions have written. */
export const writtenTwice =
  "select key, n, count(*)::int4 as times from written group by key, n having count(*) > 1";
