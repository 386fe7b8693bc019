import { type Command, keyOptions } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { lockIdKindOf, lockIdOf, lockIdOptions } from "./lock-ids.ts";
import { namespaceOf } from "./namespace.ts";
import { print, printJson } from "./print.ts";

/** `pg-locker id KEY`: shows how PostgreSQL sees the lock of a key. */
export const id: Command = {
  name: "id",
  synopsis: "KEY [--namespace N] [--lock-ids KIND] [--json]",
  summary: "show the lock id of a key, and how pg_locks shows it",
  keys: 1,
  options: { ...keyOptions, ...lockIdOptions, json: { value: "none" } },
  help: `Shows the number by which PostgreSQL knows the lock of KEY, as in
pg_try_advisory_lock(id), and how the view pg_locks shows it: in two halves,
classid and objid. No database is asked.

  --namespace N      the namespace of the key; default 0
  --lock-ids sha256  for lockers with the option "lockId: sha256LockId"
  --json             print a JSON object; the three numbers are strings

Example:
  pg-locker id nightly --namespace 7`,
  async run({ values, positionals: [key = ""] }) {
    const lock = lockIdOf({ key, namespace: namespaceOf(values), lockIds: lockIdKindOf(values) });
    const bits = BigInt.asUintN(64, lock);
    const halves = { classid: bits >> 32n, objid: bits & 0xffffffffn };
    if (values["json"] === true) {
      const text = { id: `${lock}`, classid: `${halves.classid}`, objid: `${halves.objid}`, objsubid: 1 };
      await printJson(text);
    } else {
      await print(`id        ${lock}\nclassid   ${halves.classid}\nobjid     ${halves.objid}\nobjsubid  1`);
    }
    return exitStatus.ok;
  },
};
