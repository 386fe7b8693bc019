import type { StdioOptions } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";

interface Descriptor {
  readonly fd: number;
  /** A path, or `pipe:[7]`, `socket:[7]`, `anon_inode:[eventpoll]`, ... */
  readonly file: string;
  readonly isWritten: boolean;
  readonly isBlocking: boolean;
  /** Whether a program that this process starts doesn't get it. */
  readonly closesOnExec: boolean;
}

/** Bits of a descriptor's flags, as Linux shows them. */
const writeOnly = 0o1;
const nonBlocking = 0o4_000;
const closeOnExec = 0o2_000_000;

/** What a process has from whoever started it, beside its standard input, output and error. */
export interface Inherited {
  /** To be handed on. Node.js keeps them for itself otherwise. */
  readonly handed: readonly number[];
  /** The lowest number that is free: some others everybody gets without a word. */
  readonly free: number;
}

/**
 * The descriptors that this process was started with: `3>&1`, the pipes of a jobserver, the sockets of systemd. They are told from
 * those of Node.js itself by what they are, so that this has to be asked before anything is opened. None without `/proc`.
 */
export function inheritedDescriptors(): Inherited {
  const all = ownDescriptors();
  const firstPoll = all.find(({ file }) => file === "anon_inode:[eventpoll]")?.fd ?? 0;
  const pipes = pipesOfNode(all, firstPoll);
  // One that libuv keeps for the day when there are no more.
  const spare = all.find(({ fd, file }) => fd > firstPoll && file === "/dev/null")?.fd;
  const channel = process.channel === undefined ? undefined : ownChannel();
  const inherited = all.filter(({ fd, file, closesOnExec }) => {
    if (fd <= 2 || fd === channel) return false;
    // Node.js opens the lowest that is free: whatever is below its first was there before.
    if (fd < firstPoll || !closesOnExec) return true;
    return !file.startsWith("anon_inode:") && fd !== spare && !pipes.has(fd);
  });
  const taken = inherited.map(({ fd }) => fd);
  let free = 3;
  while (taken.includes(free)) free += 1;
  return { handed: inherited.filter(({ closesOnExec }) => closesOnExec).map(({ fd }) => fd), free };
}

/** The `stdio` of a child that gets these beside the three, and a channel to this process, if it is to have one, at that number. */
export function stdioWith(handed: readonly number[], channel?: number): StdioOptions {
  const length = Math.max(2, channel ?? 0, ...handed) + 1;
  return [...Array(length).keys()].map((fd) => {
    if (fd === channel) return "ipc";
    return fd <= 2 || handed.includes(fd) ? fd : "ignore";
  });
}

/** Both ends of each pipe with which Node.js wakes itself: one for each of its loops, which don't block, and one for all, which does. */
function pipesOfNode(all: readonly Descriptor[], firstPoll: number): ReadonlySet<number> {
  const pairs = all.flatMap((reader) => {
    const ends = all.filter(({ file }) => file === reader.file);
    const writer = ends.find(({ isWritten }) => isWritten);
    const isPair =
      reader.file.startsWith("pipe:") &&
      !reader.isWritten &&
      ends.length === 2 &&
      writer !== undefined &&
      firstPoll < reader.fd &&
      reader.fd < writer.fd &&
      reader.isBlocking === writer.isBlocking &&
      ends.every(({ closesOnExec }) => closesOnExec);
    return isPair ? [{ reader, writer, inode: Number(/\d+/.exec(reader.file)) }] : [];
  });
  const ofLoops = pairs.filter(({ reader }) => !reader.isBlocking);
  const inode = ofLoops[0]?.inode ?? 0;
  // It is made just before that of the first loop.
  const [ofAll] = pairs
    .filter(({ reader }) => reader.isBlocking)
    .toSorted((one, other) => Math.abs(one.inode - inode) - Math.abs(other.inode - inode));
  const own = ofAll === undefined ? ofLoops : [...ofLoops, ofAll];
  return new Set(own.flatMap(({ reader, writer }) => [reader.fd, writer.fd]));
}

function ownDescriptors(): Descriptor[] {
  return fds().flatMap((fd) => {
    try {
      const file = readlinkSync(`/proc/self/fd/${fd}`);
      const [, digits = "0"] =
        /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1")) ?? [];
      const flags = Number.parseInt(digits, 8);
      return {
        fd,
        file,
        isWritten: (flags & writeOnly) !== 0,
        isBlocking: (flags & nonBlocking) === 0,
        closesOnExec: (flags & closeOnExec) !== 0,
      };
    } catch (error) {
      // That of this very look.
      if (hasCode(error, "ENOENT")) return [];
      throw error;
    }
  });
}

function fds(): number[] {
  try {
    const numbers = readdirSync("/proc/self/fd").map(Number);
    return numbers.toSorted((one, other) => one - other);
  } catch (error) {
    if (hasCode(error, "ENOENT", "EACCES")) return [];
    throw error;
  }
}

/** That of the channel to whoever started this process, if that is Node.js: it is no one else's. */
function ownChannel(): number | undefined {
  const [, fd] = /(?:^|\0)NODE_CHANNEL_FD=(\d+)/.exec(readFileSync("/proc/self/environ", "latin1")) ?? [];
  return fd === undefined ? undefined : Number(fd);
}
