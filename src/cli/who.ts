import { listLocks } from "../index.ts";
import { databaseLine } from "./asked-database.ts";
import { colorsFor } from "./colors.ts";
import { type Command, databaseOptions, keyOptions } from "./command.ts";
import { connect } from "./database.ts";
import { exitStatus } from "./exit-status.ts";
import { lockIdKindOf, lockIdOf, lockIdOptions } from "./lock-ids.ts";
import { forJson, lockListing } from "./lock-table.ts";
import { namespaceOf } from "./namespace.ts";
import { usesWithOtherIds } from "./other-ids.ts";
import { print, printJson } from "./print.ts";
import { tellUser } from "./tell-user.ts";

/** `pg-locker who KEY`: shows who holds the lock of a key, and who waits for it. */
export const who: Command = {
  name: "who",
  synopsis: "KEY [--namespace N] [--lock-ids KIND] [--json] [--url URL]",
  summary: "show who holds the lock of a key, and who waits",
  keys: 1,
  options: { ...databaseOptions, ...keyOptions, ...lockIdOptions, json: { value: "none" } },
  help: `Shows who holds the lock of KEY, and who waits for it. Exits with 0 if somebody
holds it, and with 1 if nobody does.

  --namespace N      the namespace of the key; default 0
  --lock-ids sha256  for lockers with the option "lockId: sha256LockId"
  --json             print a JSON array, which is empty if there is nobody
  --url URL          the database; default DATABASE_URL, or PGHOST and the like
  --local            your own PostgreSQL here, even if a database is named

Example:
  pg-locker who nightly --namespace 7`,
  async run({ values, positionals: [key = ""] }) {
    const namespace = namespaceOf(values);
    const id = lockIdOf({ key, namespace, lockIds: lockIdKindOf(values) });
    await using database = await connect(values);
    const { pool } = database;
    const seen = await listLocks(pool, { id });
    // Whatever key its session tells, this is the lock of the key that was asked for.
    const locks = seen.map((lock) => ({ ...lock, key: lock.key ?? key }));
    const isHeld = locks.some(({ state }) => state === "held");
    const uses = isHeld ? undefined : await usesWithOtherIds(pool, { namespace, key, id });
    if (values["json"] === true) {
      await printJson(forJson(locks));
      if (uses !== undefined) tellUser(`pg-locker: ${uses.sentence}`);
    } else {
      const empty = "Nobody holds it, and nobody waits for it";
      const listing = lockListing(locks, { empty, colors: colorsFor(process.stdout), now: new Date() });
      await print([`${databaseLine()}\n${listing}`, uses?.listing].filter(Boolean).join("\n\n"));
    }
    return isHeld ? exitStatus.ok : exitStatus.no;
  },
};
