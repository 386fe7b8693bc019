import { isPostgresInstalled } from "../testing/index.ts";
import { type Command, databaseOptions, type Values } from "./command.ts";
import { namedDatabase } from "./connection/named-database.ts";
import { isLocal, loadDriver } from "./database.ts";
import { usageFailure } from "./failure.ts";
import { notInstalled } from "./own-server/own-server.ts";

/** The exports of `demo/demo.mjs`, which is plain JavaScript beside `dist/`, so that everybody can read it. */
interface Demo {
  demo(options: { url: string | undefined }): Promise<number>;
}

/** `import()`, which the bundler would turn into `require()`: the built command line is CommonJS, and Node.js 20 can't require a module. */
const importModule = new Function("url", "return import(url)") as (url: string) => Promise<Demo>;

/** `pg-locker demo`: runs the demo of the README. */
export const demo: Command = {
  name: "demo",
  synopsis: "[--url URL | --local]",
  summary: "watch three processes compete for a key, and two get killed",
  keys: 0,
  options: { ...databaseOptions },
  help: `Lets three processes compete for one key, kills the holder with SIGKILL in the
middle of its work, twice, and shows who held the lock when. Takes some seconds.
Exits with 1 if two processes ever held it at the same time.

  --url URL   the database; default DATABASE_URL, else a PostgreSQL that is
              started for the demo and removed after it
  --local     that one, even if DATABASE_URL is set

Example:
  pg-locker demo`,
  async run({ values }) {
    const url = urlOf(values);
    if (url === undefined && !isPostgresInstalled()) throw notInstalled();
    // Its processes need the driver, and would report its absence one by one.
    await loadDriver();
    const { demo } = await importModule(new URL("../../demo/demo.mjs", import.meta.url).href);
    return await demo({ url });
  },
};

/** @throws {Failure} the database can't be used, or is named twice, or in a way that the demo's processes can't take over */
function urlOf(values: Values): string | undefined {
  if (isLocal(values)) return undefined;
  const named = namedDatabase(values);
  if (named === undefined) return undefined;
  const url = String(values["url"] ?? process.env["DATABASE_URL"] ?? "").trim();
  if (/^postgres(ql)?:\/\//.test(url)) return url;
  throw usageFailure(
    `The demo takes a URL such as postgres://USER@HOST/DATABASE, but ${named.namedBy} has another form: give --url, or --local`,
  );
}
