import { existsSync } from "node:fs";
import { join } from "node:path";
import { quote } from "../../contract/plain-text.ts";
import { usageFailure } from "../failure.ts";
import { homeFile, readNamedFile } from "./named-file.ts";
import { nameOf, parameters, type Setting, type Settings } from "./parameters.ts";

/** The folders in which distributions keep the machine's service file (`pg_config --sysconfdir`). */
const systemFolders = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"];

/**
 * The settings of the named service, if a service is named: from the named file, or from `~/.pg_service.conf`, or from the machine's
 * `pg_service.conf` (https://www.postgresql.org/docs/current/libpq-pgservice.html).
 *
 * @throws {Failure} there is no such service, or its file can't be read
 */
export function serviceSettings(settings: Settings, env: NodeJS.ProcessEnv): Map<string, Setting> {
  const service = settings.get("service");
  const file = settings.get("servicefile");
  if (service === undefined) {
    if (file !== undefined && !settings.has("host") && !settings.has("hostaddr")) {
      throw usageFailure(
        `${nameOf("servicefile", file)} names a file of services, and nothing names one: set PGSERVICE`,
      );
    }
    return new Map();
  }
  const files = file === undefined ? filesOf(env) : [{ path: file.value, name: nameOf("servicefile", file) }];
  for (const { path, name } of files) {
    const found = sectionOf(readNamedFile(path, name), { service: service.value, path });
    if (found !== undefined) return found;
  }
  const where =
    files.map(({ path }) => path).join(" and ") ||
    "~/.pg_service.conf or any other file: set PGSERVICEFILE to the file that has it";
  throw usageFailure(
    `${nameOf("service", service)} names the service ${quote(service.value)}, which is not in ${where}`,
  );
}

function filesOf(env: NodeJS.ProcessEnv): { path: string; name: string }[] {
  const own = homeFile(".pg_service.conf");
  const folder = env["PGSYSCONFDIR"];
  const ofSystem = (folder ? [folder] : systemFolders)
    .map((each) => join(each, "pg_service.conf"))
    .find((each) => existsSync(each));
  return [own, ofSystem].filter((path) => path !== undefined).map((path) => ({ path, name: "PGSERVICE" }));
}

/** The settings in the section `[service]`; `undefined` if there is no such section. If a setting is there twice, the first one counts. */
function sectionOf(
  text: string,
  { service, path }: { service: string; path: string },
): Map<string, Setting> | undefined {
  let found: Map<string, Setting> | undefined;
  let isWithin = false;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (line.startsWith("[")) {
      if (found !== undefined) break;
      isWithin = line === `[${service}]`;
      if (isWithin) found = new Map();
      continue;
    }
    if (!isWithin || found === undefined) continue;
    const [, keyword = "", value = ""] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (!Object.hasOwn(parameters, keyword) || keyword === "service" || keyword === "servicefile") {
      throw usageFailure(
        `Line ${index + 1} of ${path} is not a parameter that libpq knows, as in host=db.example`,
      );
    }
    if (!found.has(keyword)) found.set(keyword, { value, from: `the service ${quote(service)}` });
  }
  return found;
}
