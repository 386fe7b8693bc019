import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readlinkSync, renameSync, symlinkSync, unlinkSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { codeOf } from "../../contract/caught-error.ts";
import type { OwnServerFolder } from "./folder.ts";
import { Visit } from "./visit.ts";

/** What makes a process the keeper: it listens where every command looks for one. */
export interface Claim {
  readonly server: Server;
  /** Whether commands still find this process there. */
  isMine(): boolean;
  /** Commands that come from now on find nobody; those that have come stay connected. */
  release(): void;
}

/**
 * Makes this process the keeper, or answers `undefined` where another one is.
 *
 * The name that commands know is a symbolic link, which is made only where there is none, to a socket of this process. A socket
 * says by itself whether somebody listens, and the process id of a keeper that was killed is never looked at. Two that come
 * upon a dead one's link at the same moment may, rarely, both come out as the keeper: that is wasteful and harmless, for it is
 * PostgreSQL's own lock files that keep a second server from running.
 */
export async function claim(folder: OwnServerFolder): Promise<Claim | undefined> {
  const name = `keeper.${process.pid}.${randomBytes(2).toString("hex")}`;
  const server = createServer();
  const isMine = () => readLink(folder.keeper) === name;
  const release = () => {
    if (isMine()) unlink(folder.keeper);
    server.close();
  };
  try {
    server.listen(join(folder.path, name));
    await once(server, "listening");
    if (await link(folder, name)) return { server, isMine, release };
  } catch (error) {
    // It would keep this process alive.
    server.close();
    throw error;
  }
  server.close();
  return undefined;
}

/** Whether the name that commands know is now a link to this process's socket; it is not where a keeper listens there. */
async function link(folder: OwnServerFolder, name: string): Promise<boolean> {
  for (;;) {
    try {
      symlinkSync(name, folder.keeper);
      return true;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    const found = readLink(folder.keeper);
    const visit = await Visit.open(folder.keeper);
    if (visit !== undefined) {
      visit.leave();
      return false;
    }
    if (found !== undefined) discard(folder, found);
  }
}

/** Takes away the link of a keeper that is dead, unless it is another one's by now. */
function discard(folder: OwnServerFolder, found: string): void {
  const aside = `${folder.keeper}-${randomBytes(4).toString("hex")}`;
  try {
    renameSync(folder.keeper, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  const taken = readLink(aside);
  unlink(aside);
  if (taken === found) unlink(join(folder.path, found));
  else if (taken !== undefined) {
    try {
      symlinkSync(taken, folder.keeper);
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function unlink(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}
