// Runs the test suite on PostgreSQL 14 to 18, or on the majors given as arguments: `node scripts/test-matrix.mjs 14 18`. Arguments
// after `--` go to vitest. Binaries that are missing are installed into node_modules/.cache.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

run("npm", ["run", "--silent", "build"]);
const {
  POSTGRES_PACKAGE_VERSIONS,
  DEFAULT_POSTGRES_MAJOR,
  postgresCacheDirectory,
  postgresInstallArguments,
  postgresPackageName,
} = await import("../dist/testing/postgres/versions.js");

const arguments_ = process.argv.slice(2);
const separator = arguments_.indexOf("--");
const vitestArguments = separator === -1 ? [] : arguments_.slice(separator + 1);
const asked = separator === -1 ? arguments_ : arguments_.slice(0, separator);
const known = Object.keys(POSTGRES_PACKAGE_VERSIONS);
const unknown = asked.filter((major) => !known.includes(major));
if (unknown.length > 0) {
  console.error(`Expected majors out of ${known.join(", ")}, got ${unknown.join(", ")}`);
  process.exit(2);
}

const results = [];
for (const major of asked.length > 0 ? asked : known) {
  const version = POSTGRES_PACKAGE_VERSIONS[major];
  const installed = `${postgresCacheDirectory(major)}/node_modules/${postgresPackageName()}/package.json`;
  if (Number(major) !== DEFAULT_POSTGRES_MAJOR && !existsSync(installed))
    run("npm", postgresInstallArguments(major));
  // DATABASE_URL would replace the server that PG_MAJOR asks for.
  const { DATABASE_URL: _, ...env } = process.env;
  const { status } = spawnSync("npx", ["vitest", "run", ...vitestArguments], {
    env: { ...env, PG_MAJOR: major },
    stdio: "inherit",
  });
  results.push({ label: `PostgreSQL ${major} (${version})`, passed: status === 0 });
}

for (const { label, passed } of results) console.log(`${passed ? "passed" : "FAILED"}  ${label}`);
process.exit(results.every(({ passed }) => passed) ? 0 : 1);

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
