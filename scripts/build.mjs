// Builds dist/ from src/: an ES module of each file, and in dist/cjs/ a CommonJS one of the library and of `pg-locker/testing`.
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = new URL("../", import.meta.url);
const dist = new URL("dist/", root);

rmSync(dist, { recursive: true, force: true });
compile("tsconfig.build.json");
compile("tsconfig.cjs.json");

// What says where a module is has another name in each of the two systems.
const located = new URL("cjs/testing/postgres/binaries.js", dist);
const source = readFileSync(located, "utf8");
if (source.split("import.meta.url").length !== 2)
  throw new Error(`Expected one import.meta.url in ${located}`);
writeFileSync(located, source.replace("import.meta.url", "__filename"));

writeFileSync(
  new URL("cjs/package.json", dist),
  `${JSON.stringify({ type: "commonjs", sideEffects: false })}\n`,
);

function compile(project) {
  const tsc = fileURLToPath(new URL("node_modules/typescript/bin/tsc", root));
  const { status } = spawnSync(process.execPath, [tsc, "-p", project], {
    cwd: fileURLToPath(root),
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}
