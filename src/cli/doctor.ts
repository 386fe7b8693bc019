import { createColors } from "picocolors";
import { diagnose, type Finding } from "../index.ts";
import { type Command, databaseOptions } from "./command.ts";
import { connect } from "./database.ts";
import { exitStatus } from "./exit-status.ts";

/** `pg-locker doctor`: whether the database is fit for locks. */
export const doctor: Command = {
  name: "doctor",
  synopsis: "[--url URL] [--json]",
  summary: "is this database fit for locks?",
  keys: 0,
  options: { ...databaseOptions, json: { value: "none" } },
  help: `Looks at the database from all sides that matter to locks: a line for each, with
what to do where something is not as it should be. Nothing is changed or left.
Exits with 1 where a line says FAIL.

  --url URL   the database, default DATABASE_URL, else PGHOST and its like
  --json      as JSON: check, verdict ("ok", "warn", "fail"), found, advice

Example:
  pg-locker doctor --url postgres://app@db.example/app`,
  async run({ values }) {
    await using database = await connect(values);
    const findings = await diagnose(database.pool);
    console.log(values["json"] === true ? JSON.stringify(findings, undefined, 2) : report(findings));
    return findings.some(({ verdict }) => verdict === "fail") ? exitStatus.no : exitStatus.ok;
  },
};

function report(findings: readonly Finding[]): string {
  const { bold, green, red, yellow } = createColors(
    Boolean(process.stdout.isTTY) && !process.env["NO_COLOR"],
  );
  const marks = { ok: green("ok  "), warn: yellow("warn"), fail: red("FAIL") };
  const widest = Math.max(...findings.map(({ check }) => check.length));
  const indent = " ".repeat(4 + 2 + widest + 2);
  const lines = findings.flatMap(({ check, verdict, found, advice }) => [
    `${marks[verdict]}  ${check.padEnd(widest)}  ${found}`,
    ...(advice === undefined ? [] : [`${indent}${advice}`]),
  ]);
  return [...lines, "", bold(conclusion(findings))].join("\n");
}

function conclusion(findings: readonly Finding[]): string {
  const count = (verdict: Finding["verdict"]) => findings.filter((each) => each.verdict === verdict).length;
  const [fails, warnings] = [count("fail"), count("warn")];
  if (fails > 0) return `Not fit for locks: ${fails === 1 ? "1 line fails" : `${fails} lines fail`}`;
  if (warnings > 0) return `Fit for locks, with ${warnings === 1 ? "1 warning" : `${warnings} warnings`}`;
  return "Fit for locks";
}
