// Runs the test suite on Node.js 20, 22 and 24, or on the majors given as arguments: `node scripts/test-nodes.mjs 22`. Arguments
// after `--` go to vitest. Each Node.js is an npm package, installed into node_modules/.cache.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

const VERSIONS = { 20: "20.20.2", 22: "22.23.3", 24: "24.21.0" };

// The package `node` fetches this one in a postinstall script, which newer npm skips; this one has the binary inside.
const PACKAGE = `node-${process.platform === "win32" ? "win" : process.platform}-${process.arch}`;

const arguments_ = process.argv.slice(2);
const separator = arguments_.indexOf("--");
const vitestArguments = separator === -1 ? [] : arguments_.slice(separator + 1);
const asked = separator === -1 ? arguments_ : arguments_.slice(0, separator);
const unknown = asked.filter((major) => !(major in VERSIONS));
if (unknown.length > 0) {
  console.error(`Expected majors out of ${Object.keys(VERSIONS).join(", ")}, got ${unknown.join(", ")}`);
  process.exit(2);
}

run("npm", ["run", "--silent", "build"]);

const results = [];
for (const major of asked.length > 0 ? asked : Object.keys(VERSIONS)) {
  const version = VERSIONS[major];
  const prefix = `node_modules/.cache/node-${version}`;
  const node = `${prefix}/node_modules/${PACKAGE}/bin/node`;
  if (!existsSync(node)) {
    run("npm", [
      "install",
      "--no-save",
      "--no-audit",
      "--no-fund",
      "--prefix",
      prefix,
      `${PACKAGE}@${version}`,
    ]);
  }
  // The workers and the tests' child processes run on `process.execPath`, so on this one, too.
  const { status } = spawnSync(node, ["node_modules/vitest/vitest.mjs", "run", ...vitestArguments], {
    stdio: "inherit",
  });
  results.push({ label: `Node.js ${version}`, passed: status === 0 });
}

for (const { label, passed } of results) console.log(`${passed ? "passed" : "FAILED"}  ${label}`);
process.exit(results.every(({ passed }) => passed) ? 0 : 1);

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
