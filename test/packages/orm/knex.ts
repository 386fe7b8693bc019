import createKnex, { type Knex } from "knex";
import { knexSnakeCaseMappers, Model } from "objection";
import { fromKnex } from "pg-locker/orm";
import type { OpenTransaction, Orm } from "./orm.ts";

const opened = (trx: Knex.Transaction, insert: (what: string) => Promise<unknown>): OpenTransaction => ({
  client: fromKnex(trx),
  again: () => fromKnex(trx),
  write: insert,
  nested: (run) =>
    trx.transaction((inner) => run(opened(inner, async (what) => await inner("written").insert({ what })))),
  commitEarly: async () => await trx.commit(),
});

export function open(url: string): Orm {
  const knex = createKnex({ client: "pg", connection: url, ...knexSnakeCaseMappers() });
  return {
    name: "Knex",
    transaction: (run) =>
      knex.transaction((trx) => run(opened(trx, async (what) => await trx("written").insert({ what })))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromKnex(undefined),
      // @ts-expect-error a Knex is no transaction
      "the Knex": () => fromKnex(knex),
    },
    end: () => knex.destroy(),
  };
}

class Written extends Model {
  static override tableName = "written";
  static override idColumn = "what";
  declare what: string;
}

export function openObjection(url: string): Orm {
  const knex = createKnex({ client: "pg", connection: url });
  const Bound = Written.bindKnex(knex);
  return {
    name: "Objection",
    transaction: (run) =>
      Bound.transaction((trx) => run(opened(trx, async (what) => await Bound.query(trx).insert({ what })))),
    mistakes: {
      // @ts-expect-error a model is no transaction
      "the model": () => fromKnex(Bound),
    },
    end: () => knex.destroy(),
  };
}
