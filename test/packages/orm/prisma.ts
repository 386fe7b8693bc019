import { PrismaPg } from "@prisma/adapter-pg";
import { fromPrisma } from "pg-locker/orm";
import { type Prisma, PrismaClient } from "./generated/client.ts";
import type { OpenTransaction, Orm } from "./orm.ts";

export function open(url: string): Orm {
  const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }) });
  const opened = (tx: Prisma.TransactionClient): OpenTransaction => ({
    client: fromPrisma(tx),
    again: () => fromPrisma(tx),
    write: (what) => tx.written.create({ data: { what } }),
    nested: (run) => tx.$transaction((inner) => run(opened(inner))),
    commitEarly: () => tx.$executeRawUnsafe("commit"),
  });
  return {
    name: "Prisma",
    transaction: (run) => prisma.$transaction((tx) => run(opened(tx))),
    mistakes: {
      // @ts-expect-error it may be undefined
      undefined: () => fromPrisma(undefined),
      // @ts-expect-error the client itself is no transaction
      "the PrismaClient": () => fromPrisma(prisma),
    },
    end: () => prisma.$disconnect(),
  };
}
