import { fromSequelize } from "pg-locker/orm";
import { DataTypes, Sequelize, type Transaction } from "sequelize";
import type { OpenTransaction, Orm } from "./orm.ts";

/** A Sequelize itself, whose `query` somebody may take for that of a client. */
export function itself(url: string): Sequelize {
  return new Sequelize(url, { logging: false, pool: { max: 1 } });
}

export function open(url: string): Orm {
  const sequelize = new Sequelize(url, { logging: false });
  const Written = sequelize.define(
    "written",
    { what: { type: DataTypes.TEXT, primaryKey: true } },
    { freezeTableName: true, timestamps: false },
  );
  const opened = (transaction: Transaction): OpenTransaction => ({
    client: fromSequelize(transaction),
    again: () => fromSequelize(transaction),
    write: (what) => Written.create({ what }, { transaction }),
    nested: (run) => sequelize.transaction({ transaction }, (inner) => run(opened(inner))),
    commitEarly: () => transaction.commit(),
  });
  return {
    name: "Sequelize",
    transaction: (run) => sequelize.transaction((transaction) => run(opened(transaction))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromSequelize(undefined),
      // @ts-expect-error a Sequelize is no transaction
      "the Sequelize": () => fromSequelize(sequelize),
    },
    end: () => sequelize.close(),
  };
}
