import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chown, writeFile } from "node:fs/promises";
import { endianness } from "node:os";
import { join } from "node:path";
import { hasCode } from "../../contract/caught-error.ts";
import type { PostgresInstallation } from "../../testing/index.ts";
import { unavailableFailure } from "../failure.ts";
import { waysOut } from "./folder.ts";

// A fencing token has the server's timeline in its upper bits. Each major version of PostgreSQL has a data directory of its own, which
// counts from the beginning. It starts on a timeline above those of the others, so that the tokens keep growing.

/**
 * The timeline above which a major version's data have to be raised; `undefined` if they are already above all that were used here.
 *
 * @param data the data directory of that version: `FOLDER/MAJOR/data`
 */
export function timelineToPass(data: string, path: string): number | undefined {
  const others = readdirSync(path)
    .filter((name) => /^\d+$/.test(name))
    .map((major) => join(path, major, "data"))
    .filter((each) => each !== data && existsSync(join(each, "PG_VERSION")));
  const highest = Math.max(0, ...others.map((each) => Math.max(timelineOf(each), latestIn(each))));
  return timelineOf(data) > highest ? undefined : highest;
}

/** The position in `pg_control` of `checkPointCopy.ThisTimeLineID`, in bytes; the same since PostgreSQL 11. */
const timelineAt = 48;

/** The timeline that the data are on, as of their last checkpoint. @throws {Failure} they are damaged or incomplete */
function timelineOf(data: string): number {
  const file = join(data, "global", "pg_control");
  const control = existsSync(file) ? readFileSync(file) : Buffer.alloc(0);
  if (control.length < timelineAt + 4) {
    throw unavailableFailure(
      `${file} is missing or damaged, so nobody knows which fencing tokens were drawn: restore it, or ${waysOut}`,
    );
  }
  return endianness() === "LE" ? control.readUInt32LE(timelineAt) : control.readUInt32BE(timelineAt);
}

/** The latest timeline that was begun, even if the server has not switched to it. */
function latestIn(data: string): number {
  try {
    const names = readdirSync(join(data, "pg_wal"));
    // A segment, 0000000100000000000000A5; or the history of a timeline, 00000002.history
    const found = names.flatMap((name) => /^([\dA-F]{8})(?:[\dA-F]{16}|\.history)$/.exec(name)?.[1] ?? []);
    return Math.max(0, ...found.map((digits) => Number.parseInt(digits, 16)));
  } catch (error) {
    if (hasCode(error, "ENOENT")) return 0;
    throw error;
  }
}

/**
 * Has the server switch to the timeline above `timeline`, as a promoted standby does: a recovery that finds nothing to recover takes the
 * first timeline that has no history yet.
 *
 * If it is killed midway, the next start repeats it, unless the switch was already made.
 *
 * @param serve runs the server once, until it accepts connections, with these settings in addition to its own
 */
export async function passTimeline(
  data: string,
  options: {
    timeline: number;
    installation: PostgresInstallation;
    serve: (settings: Readonly<Record<string, string>>) => Promise<void>;
  },
): Promise<void> {
  const { timeline, installation, serve } = options;
  const settings = { wal_level: "replica" };
  // WAL that was written with a lower level can't be recovered from.
  await serve(settings);
  const own = timelineOf(data);
  const { account } = installation;
  const write = async (name: string, text: string): Promise<void> => {
    const file = join(data, name);
    await writeFile(file, text, { mode: 0o600 });
    if (account) await chown(file, account.uid, account.gid);
  };
  for (let each = own + 1; each <= timeline; each++) {
    const name = each.toString(16).toUpperCase().padStart(8, "0");
    await write(join("pg_wal", `${name}.history`), `${own}\t0/0\tof the data of another major\n`);
  }
  await write("recovery.signal", "");
  // With a hot standby, the server would be ready before it has switched.
  await serve({ ...settings, hot_standby: "off" });
}
