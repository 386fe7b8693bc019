// Who had a lock, in which order, and how many at a time: each holder writes it down, in whatever language it is written.

export const createTurns = `
  create table if not exists inside (id bigint primary key, holders int not null);
  create table if not exists turns (at bigserial, id bigint not null, name text not null, holders int not null)`;

/** The first statement under the lock. */
export const enter = `
  with mine as (
    insert into inside values ($1, 1) on conflict (id) do update set holders = inside.holders + 1 returning id, holders)
  insert into turns (id, name, holders) select id, $2, holders from mine`;

/** The last statement under the lock. */
export const leave = "update inside set holders = holders - 1 where id = $1";
