// Measures the named scenarios, or all of them: run.mjs [rates] [handOver] [callersOneKey] [crowd] [fleet] [besideOthers] [serverCpu]
// [processCpu] [manyLocks] [hotPath]
// In results.json, the other scenarios keep their results; README.md, docs/bench.md and docs/bench.svg are written from it.
import { readFileSync, writeFileSync } from "node:fs";
import { besideOthers } from "./beside-others.mjs";
import { callersOneKey } from "./callers-one-key.mjs";
import { draw } from "./chart.mjs";
import { crowd } from "./crowd.mjs";
import { fleet } from "./fleet.mjs";
import { handOver } from "./hand-over.mjs";
import { hotPath } from "./hot-path.mjs";
import { manyLocks } from "./many-locks.mjs";
import { processCpu } from "./process-cpu.mjs";
import { rates } from "./rates.mjs";
import { asJson, tableOf } from "./report.mjs";
import { serverCpu } from "./server-cpu.mjs";
import { publish } from "./summary.mjs";

const scenarios = {
  rates,
  handOver,
  callersOneKey,
  crowd,
  fleet,
  besideOthers,
  serverCpu,
  processCpu,
  manyLocks,
  hotPath,
};
const file = new URL("results.json", import.meta.url);

const named = process.argv.slice(2);
const unknown = named.filter((name) => !Object.hasOwn(scenarios, name));
if (unknown.length > 0) {
  throw new Error(`Expected some of ${Object.keys(scenarios).join(", ")}, got ${unknown.join(", ")}`);
}
const measured = {};
for (const name of Object.keys(scenarios)) {
  if (named.length > 0 && !named.includes(name)) continue;
  measured[name] = await scenarios[name]();
  console.log(`\n${tableOf(name, measured[name])}`);
}
const results = { ...JSON.parse(readFileSync(file, "utf8")), ...measured };
writeFileSync(file, asJson(results));
// As they were written: their numbers are rounded there, and the pages round them once more.
const written = JSON.parse(readFileSync(file, "utf8"));
draw(written.rates);
publish(written);
