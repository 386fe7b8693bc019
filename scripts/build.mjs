// Builds dist/ from src/. The library is bundled into a few files, because each file that Node.js loads makes an import half a millisecond
// longer. What a `PostgresLocker` doesn't need is apart, so that a bundler can leave it out. dist/cjs/ has the same as CommonJS. The part
// for tests, as an ES module, keeps one file for each file of src/. dist/cli/ is CommonJS, has a few files for each command, and contains
// its own copy of the parts of the library that it uses, to start quickly.
//
// OpenTelemetry's API is bundled, too: it is two thirds of an install and a third of the import, of which a locker uses a twentieth. Copies
// of it find the application's providers in one global place, which is what the API is made for.
import { spawnSync } from "node:child_process";
import { copyFileSync, cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

rmSync("dist", { recursive: true, force: true });
const tsc = ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"];
const { status } = spawnSync(process.execPath, tsc, { stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);

const compiled = readdirSync("dist", { recursive: true });
/** The modules that a `PostgresLocker` needs: they are in one file, so that no two files import each other. */
const neededByLibrary = importedFrom("postgres-locker.js");
const modules = compiled.filter(
  (file) => file.endsWith(".js") && !isIn("cli", file) && !isIn("testing", file),
);

/** The package's exports: files of dist/, without their extension. */
const entries = Object.values(JSON.parse(readFileSync("package.json", "utf8")).exports)
  .flatMap((conditions) => conditions.import?.default ?? conditions.default ?? [])
  .map((file) => relative("dist", file).replace(/\.js$/, ""));
const library = entries.filter((entry) => !isIn("testing", entry));

/**
 * Removes line breaks and indentation from SQL. They only help readers of src/, and no minifier removes them. Our SQL contains no comments
 * and no string with a line break.
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

/** Without white space, for what nobody debugs in: it keeps an install small. Names that stack traces show stay. */
const onOneLine = {
  compress: true,
  mangle: { toplevel: false, keepNames: true },
  codegen: { removeWhitespace: true },
};

await bundle(library, { dir: "dist/cjs", format: "cjs" });
// Bundled separately: it shares so little with the library that a shared file would cost more.
await bundle(
  entries.filter((entry) => isIn("testing", entry)),
  { dir: "dist/cjs", format: "cjs", codeSplitting: false, minify: onOneLine },
);
await bundle(library, { dir: "dist/bundled", format: "esm" });
requireWhereItIsCaught();

await bundleCommandLine("dist/bundled-cli");

// The modules of the library that the part for tests imports one by one.
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
copyFileSync("node_modules/@opentelemetry/api/LICENSE", "dist/opentelemetry-api.LICENSE");
writeFileSync("dist/cjs/package.json", `${JSON.stringify({ type: "commonjs", sideEffects: false })}\n`);

/** Installed packages stay external: a bundled copy would miss fixes, and the application may use another version of the driver. */
function isExternal(id) {
  return /^[^./]/.test(id) && id !== "@opentelemetry/api";
}

async function bundle(names, output) {
  const input = Object.fromEntries(names.map((name) => [name, join("dist", `${name}.js`)]));
  const isEntry = new Set(Object.values(input).map((file) => resolve(file)));
  const made = await rolldown({
    input,
    platform: "node",
    external: isExternal,
    preserveEntrySignatures: "allow-extension",
    plugins: [shortSql],
  });
  await made.write({
    entryFileNames: "[name].js",
    chunkFileNames: "[name].js",
    dynamicImportInCjs: false,
    // A bundler needs the annotations, to leave out what is unused.
    comments: { annotation: true, jsdoc: false, legal: false },
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

/** The positions of all strings and template parts. */
function texts(node) {
  if (node === null || typeof node !== "object") return [];
  const isText =
    node.type === "TemplateElement" || (node.type === "Literal" && typeof node.value === "string");
  return isText ? [node] : Object.values(node).flatMap(texts);
}

/** Bundles the programs of the command line. Each finds the others, and package.json, relative to its own path. */
async function bundleCommandLine(dir) {
  const programs = ["start", "main", "run/runner", "own-server/program"];
  const made = await rolldown({
    input: Object.fromEntries(programs.map((file) => [basename(file), join("dist/cli", `${file}.js`)])),
    platform: "node",
    external: isExternal,
    plugins: [shortSql],
  });
  await made.write({
    dir,
    format: "cjs",
    entryFileNames: "[name].js",
    chunkFileNames: "[name].js",
    dynamicImportInCjs: false,
    minify: onOneLine,
    comments: { annotation: false, jsdoc: false, legal: true },
  });
  writeFileSync(join(dir, "package.json"), `${JSON.stringify({ type: "commonjs" })}\n`);
}

/**
 * In CommonJS, moves the `require` of a driver into the block that catches its absence: otherwise a bundler fails if a driver that the
 * application doesn't use isn't installed.
 */
function requireWhereItIsCaught() {
  for (const name of readdirSync("dist/cjs").filter((file) => file.endsWith(".js"))) {
    const file = join("dist/cjs", name);
    const late =
      /Promise\.resolve\(\)\.then\(\(\) => (?:\/\* @__PURE__ \*\/ )?(__toESM\(require\("[^"]+"\)(?:, 1)?\))\)/g;
    writeFileSync(file, readFileSync(file, "utf8").replace(late, "$1"));
  }
}

/** The file into which a module goes; `null`: that of its entry. */
function chunkOf(id, isEntry) {
  const file = relative("dist", id);
  if (isEntry.has(id) || isIn("testing", file)) return null;
  if (neededByLibrary.has(file) || isIn("..", file)) return "library";
  return isIn("orm", file) ? "orm" : "apart";
}

/** The modules that a module imports, directly or indirectly. */
function importedFrom(file) {
  const reached = new Set([file]);
  for (const each of reached) {
    const text = readFileSync(join("dist", each), "utf8");
    for (const [, specifier] of text.matchAll(/from "(\.[^"]+)"/g))
      reached.add(join(dirname(each), specifier));
  }
  return reached;
}

/** The declaration files that these import, directly or indirectly. */
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

/** The modules of the library, except its index.js, that these import, directly or indirectly. */
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
