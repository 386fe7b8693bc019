import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readlinkSync, renameSync, symlinkSync, unlinkSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { codeOf } from "../../contract/caught-error.ts";
import { unavailableFailure } from "../failure.ts";
import { type OwnServerFolder, waysOut } from "./folder.ts";
import { Visit } from "./visit.ts";

/** The claim that makes a process the keeper: it listens where every command looks for the keeper. */
export interface Claim {
  readonly server: Server;
  /** Whether commands still find this process as the keeper. */
  isMine(): boolean;
  /** Gives the claim up: new commands find no keeper, while present ones stay connected. */
  release(): void;
}

/**
 * Makes this process the keeper, or returns `undefined` if there is another one.
 *
 * The name that commands know is a symbolic link to a socket of this process. It is created only if it doesn't exist. A connection to the
 * socket shows whether a process listens on it, so the process id of a killed keeper is never needed. If two processes find the link of a
 * dead keeper at the same moment, both may, rarely, become the keeper. That is wasteful but harmless, because PostgreSQL's own lock files
 * keep a second server from running.
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
    // An open server would keep this process alive.
    server.close();
    throw error;
  }
  server.close();
  return undefined;
}

/** Links the name that commands know to this process's socket. Returns false if another keeper listens there. */
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

/** Removes the link of a dead keeper, unless by now it belongs to another one. */
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
    if (codeOf(error) !== "EINVAL") throw error;
    throw unavailableFailure(
      `${path} should be a link to the socket of a keeper, but is something else: remove it, or ${waysOut}`,
    );
  }
}

function unlink(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}
