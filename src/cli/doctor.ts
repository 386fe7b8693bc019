import { plain } from "../contract/plain-text.ts";
import { diagnose, type Finding } from "../index.ts";
import { askedDatabase } from "./asked-database.ts";
import { colorsFor } from "./colors.ts";
import { type Command, databaseOptions } from "./command.ts";
import { connect } from "./database.ts";
import { exitStatus } from "./exit-status.ts";
import { howLocksAreTaken, lockOptions } from "./how-locks-are-taken.ts";
import { print, printJson } from "./print.ts";
import { wrapped } from "./screen-width.ts";

/** `pg-locker doctor`: checks whether the database is fit for locks. */
export const doctor: Command = {
  name: "doctor",
  synopsis: "[--url URL | --local] [--json] [--no-fencing] [...]",
  summary: "is this database fit for locks?",
  keys: 0,
  options: { ...databaseOptions, ...lockOptions, json: { value: "none" } },
  help: `Checks whether a database is fit for locks: version, primary or standby, pooler,
time-outs, room for locks and connections, clock, privileges. Prints a line for
each check, "ok", "warn" or "FAIL", and below it what to do if it is not "ok".
Nothing is changed or left behind. Exits with 1 if a line says FAIL: "pg-locker
run" with the same options would fail, too.

  --no-fencing, --pooler=session   as they are given to "pg-locker run"
  --json      print JSON: check, verdict (ok, warn or fail), found, advice
  --url URL   the database; default DATABASE_URL, or PGHOST and the like
  --local     your own PostgreSQL here, even if a database is named

Example:
  pg-locker doctor --url postgres://app@db.example/app`,
  async run({ values }) {
    const how = howLocksAreTaken(values);
    await using database = await connect(values);
    const findings = await diagnose(database.pool, { ...how, ttlEnforcement: "server" });
    // Known only after the checks: if there are several servers, it is the one that answers.
    const where: Line = { check: "database", verdict: "ok", found: askedDatabase() ?? "unknown" };
    const lines = [where, ...findings];
    if (values["json"] === true) await printJson(lines);
    else await print(report(lines));
    return findings.some(({ verdict }) => verdict === "fail") ? exitStatus.no : exitStatus.ok;
  },
};

/** A finding, or the line that says which database was asked. */
type Line = Finding | (Omit<Finding, "check"> & { readonly check: "database" });

function report(findings: readonly Line[]): string {
  const { bold, green, red, yellow } = colorsFor(process.stdout);
  const marks = { ok: green("ok  "), warn: yellow("warn"), fail: red("FAIL") };
  const widest = Math.max(...findings.map(({ check }) => check.length));
  const indent = 4 + 2 + widest + 2;
  const lines = findings.flatMap(({ check, verdict, found, advice }) => [
    `${marks[verdict]}  ${check.padEnd(widest)}  ${wrapped(plain(found), indent)}`,
    ...(advice === undefined ? [] : [`${" ".repeat(indent)}${wrapped(plain(advice), indent)}`]),
  ]);
  return [...lines, "", bold(conclusion(findings))].join("\n");
}

function conclusion(findings: readonly Line[]): string {
  const count = (verdict: Finding["verdict"]) => findings.filter((each) => each.verdict === verdict).length;
  const [fails, warnings] = [count("fail"), count("warn")];
  if (fails > 0) return `Not fit for locks: ${fails === 1 ? "1 line fails" : `${fails} lines fail`}`;
  if (warnings > 0) return `Fit for locks, with ${warnings === 1 ? "1 warning" : `${warnings} warnings`}`;
  return "Fit for locks";
}
