// Builds dist/ from src/. The library is a few files, because each that Node.js loads makes an import half a millisecond longer:
// those of `shaken` are apart, so that a bundler leaves out what isn't used. dist/cjs/ has the same as CommonJS. The command
// line, and as an ES module the part for tests, stay a file for each of src/.
import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
const shaken = ["inspection", "orm"];
/** What a locker itself needs of those. */
const neededByLibrary = new Set(
  ["lock-list", "lock-state", "sql-inspection"].map((file) => join("inspection", `${file}.js`)),
);

rmSync("dist", { recursive: true, force: true });
const tsc = ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"];
const { status } = spawnSync(process.execPath, tsc, { stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);

const compiled = readdirSync("dist", { recursive: true });
const modules = compiled.filter(
  (file) => file.endsWith(".js") && !isIn("cli", file) && !isIn("testing", file),
);

/** What the package exports: files of dist/, without their ending. */
const entries = Object.values(JSON.parse(readFileSync("package.json", "utf8")).exports)
  .flatMap((conditions) => conditions.import?.default ?? conditions.default ?? [])
  .map((file) => relative("dist", file).replace(/\.js$/, ""));
const library = entries.filter((entry) => !isIn("testing", entry));

await bundle(library, { dir: "dist/cjs", format: "cjs" });
await bundle(
  entries.filter((entry) => isIn("testing", entry)),
  { dir: "dist/cjs", format: "cjs" },
);
await bundle(library, { dir: "dist/bundled", format: "esm" });

// What a command loads of the library by itself, so as not to load all of it.
const kept = importedBy(compiled.filter((file) => file.endsWith(".js") && isIn("cli", file)));
for (const file of modules) if (!kept.has(file)) rmSync(join("dist", file));
cpSync("dist/bundled", "dist", { recursive: true });
rmSync("dist/bundled", { recursive: true });

const declarations = reachable(entries.map((entry) => `${entry}.d.ts`));
for (const file of compiled.filter((file) => file.endsWith(".d.ts"))) {
  if (declarations.has(file)) cpSync(join("dist", file), join("dist/cjs", file));
  else rmSync(join("dist", file));
}
writeFileSync("dist/cjs/package.json", `${JSON.stringify({ type: "commonjs", sideEffects: false })}\n`);

async function bundle(names, output) {
  const input = Object.fromEntries(names.map((name) => [name, join("dist", `${name}.js`)]));
  const isEntry = new Set(Object.values(input).map((file) => resolve(file)));
  const made = await rolldown({
    input,
    platform: "node",
    external: (id) => /^[^./]/.test(id),
    preserveEntrySignatures: "allow-extension",
  });
  await made.write({
    entryFileNames: "[name].js",
    chunkFileNames: "[name].js",
    dynamicImportInCjs: false,
    comments: false,
    codeSplitting: {
      includeDependenciesRecursively: false,
      groups: [
        {
          name: (id) => chunkOf(id, isEntry),
          test: (id) => chunkOf(id, isEntry) !== null,
          debugName: "library",
        },
      ],
    },
    ...output,
  });
}

/** The name of the file that a module goes to; `null`: to that of its entry. */
function chunkOf(id, isEntry) {
  const file = relative("dist", id);
  if (isEntry.has(id) || isIn("testing", file)) return null;
  if (neededByLibrary.has(file)) return "library";
  return shaken.find((folder) => isIn(folder, file)) ?? "library";
}

/** The declarations that these name, and those that they name. */
function reachable(files) {
  const reached = new Set(files);
  for (const file of reached) {
    const text = readFileSync(join("dist", file), "utf8");
    for (const [, specifier] of text.matchAll(/(?:from |import\()"(\.[^"]+)\.(?:ts|js)"/g)) {
      reached.add(join(dirname(file), `${specifier}.d.ts`));
    }
  }
  return reached;
}

/** The modules of the library that these import, except its index.js; and what those import. */
function importedBy(files) {
  const entry = new Set(entries.map((name) => `${name}.js`));
  const imported = new Set();
  for (const file of files) {
    const text = readFileSync(join("dist", file), "utf8");
    for (const [, specifier] of text.matchAll(/from "(\.[^"]+)"/g)) {
      const target = join(dirname(file), specifier);
      if (!isIn("cli", target) && !entry.has(target)) imported.add(target);
    }
  }
  for (const file of imported) for (const next of importedBy([file])) imported.add(next);
  return imported;
}

function isIn(folder, file) {
  return file.startsWith(folder + sep);
}
