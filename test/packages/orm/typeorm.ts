import { fromTypeORM } from "pg-locker/orm";
import { DataSource, type EntityManager, EntitySchema } from "typeorm";
import type { OpenTransaction, Orm } from "./orm.ts";

const Written = new EntitySchema<{ what: string }>({
  name: "written",
  columns: { what: { type: "text", primary: true } },
});

async function dataSource(url: string): Promise<DataSource> {
  return await new DataSource({ type: "postgres", url, entities: [Written] }).initialize();
}

export async function open(url: string): Promise<Orm> {
  const source = await dataSource(url);
  const opened = (manager: EntityManager): OpenTransaction => ({
    client: fromTypeORM(manager),
    again: () => fromTypeORM(manager),
    write: (what) => manager.insert(Written, { what }),
    nested: (run) => manager.transaction((inner) => run(opened(inner))),
    commitEarly: async () => await manager.queryRunner?.commitTransaction(),
  });
  return {
    name: "TypeORM",
    transaction: (run) => source.transaction((manager) => run(opened(manager))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromTypeORM(undefined),
      // @ts-expect-error a data source is no entity manager
      "the data source": () => fromTypeORM(source),
      "the manager that has no transaction": () => fromTypeORM(source.manager),
      "a query runner that has none begun": () => fromTypeORM(source.createQueryRunner()),
    },
    end: () => source.destroy(),
  };
}

export async function openQueryRunner(url: string): Promise<Orm> {
  const source = await dataSource(url);
  return {
    name: "TypeORM's query runner",
    transaction: async (run) => {
      const runner = source.createQueryRunner();
      await runner.startTransaction();
      const opened: OpenTransaction = {
        client: fromTypeORM(runner),
        again: () => fromTypeORM(runner),
        write: (what) => runner.manager.insert(Written, { what }),
        nested: async (inner) => {
          await runner.startTransaction();
          try {
            await inner(opened);
            await runner.commitTransaction();
          } catch (error) {
            await runner.rollbackTransaction();
            throw error;
          }
        },
        commitEarly: () => runner.commitTransaction(),
      };
      try {
        await run(opened);
        await runner.commitTransaction();
      } catch (error) {
        if (runner.isTransactionActive) await runner.rollbackTransaction();
        throw error;
      } finally {
        await runner.release();
      }
    },
    mistakes: {},
    end: () => source.destroy(),
  };
}
