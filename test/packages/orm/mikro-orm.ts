import { defineEntity, type EntityManager, MikroORM, p } from "@mikro-orm/postgresql";
import { fromMikroOrm } from "pg-locker/orm";
import type { OpenTransaction, Orm } from "./orm.ts";

const Written = defineEntity({
  name: "Written",
  tableName: "written",
  properties: { what: p.text().primary() },
});

export async function open(url: string): Promise<Orm> {
  const orm = await MikroORM.init({ clientUrl: url, entities: [Written] });
  const opened = (em: EntityManager): OpenTransaction => ({
    client: fromMikroOrm(em),
    again: () => fromMikroOrm(em),
    write: async (what) => {
      em.create(Written, { what });
      await em.flush();
    },
    nested: (run) => em.transactional((inner) => run(opened(inner))),
    commitEarly: () => em.commit(),
  });
  return {
    name: "MikroORM",
    transaction: (run) => orm.em.fork().transactional((em) => run(opened(em))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromMikroOrm(undefined),
      // @ts-expect-error the whole is no entity manager
      "the MikroORM": () => fromMikroOrm(orm),
      "an entity manager that has no transaction": () => fromMikroOrm(orm.em.fork()),
    },
    end: () => orm.close(),
  };
}
