// Measures how long the command line takes to start, compared with `node -e 0`: medians of 20. After `npm run build`, with a database in
// DATABASE_URL or one that is started for it: node bench/cli-start.mjs
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { PostgresServer } from "../dist/testing/index.js";

const rounds = 20;
const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const server = process.env["DATABASE_URL"] ? undefined : await PostgresServer.start();
const env = { ...process.env, DATABASE_URL: process.env["DATABASE_URL"] ?? server?.url };

const cases = {
  "node -e 0": ["-e", "0"],
  "pg-locker id x": [main, "id", "x"],
  "pg-locker run k -- true": [main, "run", `bench:${process.pid}`, "--", "true"],
};
const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));

// The cases take turns, so that other load on the machine affects all of them alike.
for (let round = 0; round < rounds; round += 1) {
  for (const [name, args] of Object.entries(cases)) {
    const start = performance.now();
    const { status, stderr } = spawnSync(process.execPath, args, { env, encoding: "utf8" });
    if (status !== 0) throw new Error(`${name} ended with ${status}: ${stderr}`);
    times[name].push(performance.now() - start);
  }
}
await server?.stop();

const medians = Object.entries(times).map(([name, all]) => [name, all.toSorted((a, b) => a - b)[rounds / 2]]);
const [[, base]] = medians;
for (const [name, median] of medians) {
  console.log(`${name.padEnd(24)} ${median.toFixed(0).padStart(5)} ms   ${(median / base).toFixed(2)}`);
}
