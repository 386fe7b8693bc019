// Builds dist/ from src/. The library is a few files, because each that Node.js loads makes an import half a millisecond longer:
// those of `shaken` are apart, so that a bundler leaves out what isn't used. dist/cjs/ has the same as CommonJS. The part for tests,
// as an ES module, stays a file for each of src/. dist/cli/ is CommonJS, a few files for each command, and has its own copy of what it
// takes of the library and of OpenTelemetry: all for a quick start.
import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
const shaken = ["inspection", "orm"];

rmSync("dist", { recursive: true, force: true });
const tsc = ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"];
const { status } = spawnSync(process.execPath, tsc, { stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);

const compiled = readdirSync("dist", { recursive: true });
/** What a locker needs of the folders in `shaken` is in the library itself: two files that import each other can't be loaded. */
const neededByLibrary = importedFrom("postgres-locker.js");
const modules = compiled.filter(
  (file) => file.endsWith(".js") && !isIn("cli", file) && !isIn("testing", file),
);

/** What the package exports: files of dist/, without their ending. */
const entries = Object.values(JSON.parse(readFileSync("package.json", "utf8")).exports)
  .flatMap((conditions) => conditions.import?.default ?? conditions.default ?? [])
  .map((file) => relative("dist", file).replace(/\.js$/, ""));
const library = entries.filter((entry) => !isIn("testing", entry));

/**
 * Takes the line breaks and the indentation out of SQL: they are for whoever reads src/, and no minifier takes them. No text in
 * our SQL has a line break of its own, and no comment.
 */
const shortSql = {
  name: "short-sql",
  transform(code, id) {
    if (!/[\\/]sql(-\w+)?\.js$/.test(id)) return null;
    let short = code;
    for (const { start, end } of texts(this.parse(code)).sort((a, b) => b.start - a.start)) {
      const text = short.slice(start, end).replace(/(\n|\\n)\s*/g, " ");
      short = short.slice(0, start) + text + short.slice(end);
    }
    return short;
  },
};

await bundle(library, { dir: "dist/cjs", format: "cjs" });
// One file by itself: it shares so little with the library that a file of their own for that would be dearer.
await bundle(
  entries.filter((entry) => isIn("testing", entry)),
  { dir: "dist/cjs", format: "cjs", codeSplitting: false },
);
await bundle(library, { dir: "dist/bundled", format: "esm" });
requireWhereItIsCaught();

await bundleCommandLine("dist/bundled-cli");

// What the part for tests loads of the library by itself.
const kept = importedBy(compiled.filter((file) => file.endsWith(".js") && isIn("testing", file)));
for (const file of modules) if (!kept.has(file)) rmSync(join("dist", file));
for (const [from, to] of [
  ["dist/bundled", "dist"],
  ["dist/bundled-cli", "dist/cli"],
]) {
  if (to === "dist/cli") rmSync(to, { recursive: true });
  cpSync(from, to, { recursive: true });
  rmSync(from, { recursive: true });
}

const declarations = reachable(entries.map((entry) => `${entry}.d.ts`));
for (const file of compiled.filter((file) => file.endsWith(".d.ts"))) {
  if (declarations.has(file)) cpSync(join("dist", file), join("dist/cjs", file));
  else rmSync(join("dist", file), { force: true });
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
    plugins: [shortSql],
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

/** The places of all strings, and of the parts of all templates. */
function texts(node) {
  if (node === null || typeof node !== "object") return [];
  const isText =
    node.type === "TemplateElement" || (node.type === "Literal" && typeof node.value === "string");
  return isText ? [node] : Object.values(node).flatMap(texts);
}

/** The programs of the command line, and what they load when it is asked for. Each finds the others, and package.json, by its own place. */
async function bundleCommandLine(dir) {
  const programs = ["start", "main", "run/runner", "own-server/program"];
  const made = await rolldown({
    input: Object.fromEntries(programs.map((file) => [basename(file), join("dist/cli", `${file}.js`)])),
    platform: "node",
    // Of an installed package, a bundle would miss the fixes, and the application may have another version of the driver.
    external: (id) => /^[^./]/.test(id) && id !== "@opentelemetry/api",
    plugins: [shortSql],
  });
  await made.write({
    dir,
    format: "cjs",
    entryFileNames: "[name].js",
    chunkFileNames: "[name].js",
    dynamicImportInCjs: false,
    comments: { annotation: false, jsdoc: false, legal: true },
  });
  writeFileSync(join(dir, "package.json"), `${JSON.stringify({ type: "commonjs" })}\n`);
}

/**
 * In CommonJS, has a driver be required in the very block that catches that it isn't installed: otherwise a bundler fails for want of a
 * driver that the application doesn't use.
 */
function requireWhereItIsCaught() {
  for (const name of readdirSync("dist/cjs").filter((file) => file.endsWith(".js"))) {
    const file = join("dist/cjs", name);
    const late = /Promise\.resolve\(\)\.then\(\(\) => (__toESM\(require\("[^"]+"\)(?:, 1)?\))\)/g;
    writeFileSync(file, readFileSync(file, "utf8").replace(late, "$1"));
  }
}

/** The name of the file that a module goes to; `null`: to that of its entry. */
function chunkOf(id, isEntry) {
  const file = relative("dist", id);
  if (isEntry.has(id) || isIn("testing", file)) return null;
  if (neededByLibrary.has(file)) return "library";
  return shaken.find((folder) => isIn(folder, file)) ?? "library";
}

/** The modules that one imports, and those that they import. */
function importedFrom(file) {
  const reached = new Set([file]);
  for (const each of reached) {
    const text = readFileSync(join("dist", each), "utf8");
    for (const [, specifier] of text.matchAll(/from "(\.[^"]+)"/g))
      reached.add(join(dirname(each), specifier));
  }
  return reached;
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
      if (!isIn("testing", target) && !entry.has(target)) imported.add(target);
    }
  }
  for (const file of imported) for (const next of importedBy([file])) imported.add(next);
  return imported;
}

function isIn(folder, file) {
  return file.startsWith(folder + sep);
}
