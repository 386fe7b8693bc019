import type { StdioOptions } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";

interface Descriptor {
  readonly fd: number;
  /** What it refers to: a path, or `pipe:[7]`, `socket:[7]`, `anon_inode:[eventpoll]`, ... */
  readonly file: string;
  readonly isWritten: boolean;
  readonly isBlocking: boolean;
  /** Whether it is closed in a program that this process starts. */
  readonly closesOnExec: boolean;
}

/** Bits of a descriptor's flags, as Linux shows them. */
const writeOnly = 0o1;
const nonBlocking = 0o4_000;
const closeOnExec = 0o2_000_000;

/** The descriptors that a process has inherited, besides standard input, output and error. */
export interface Inherited {
  /** The descriptors that have to be passed on explicitly, because Node.js would close them in a child. */
  readonly handed: readonly number[];
  /** The lowest free number. Descriptors that every child inherits without being listed also count as taken. */
  readonly free: number;
}

/**
 * Finds the descriptors that this process was started with: `3>&1`, the pipes of a jobserver, the sockets of systemd. They are
 * distinguished from those of Node.js by what they refer to, so this must run before anything is opened. Without `/proc`, there are none.
 */
export function inheritedDescriptors(): Inherited {
  const all = ownDescriptors();
  const firstPoll = all.find(({ file }) => file === "anon_inode:[eventpoll]")?.fd ?? 0;
  const pipes = pipesOfNode(all, firstPoll);
  // The descriptor that libuv reserves for the case that no more can be opened.
  const spare = all.find(({ fd, file }) => fd > firstPoll && file === "/dev/null")?.fd;
  const channel = process.channel === undefined ? undefined : ownChannel();
  const inherited = all.filter(({ fd, file, closesOnExec }) => {
    if (fd <= 2 || fd === channel) return false;
    // Node.js opens the lowest free numbers, so whatever is below its first one was inherited.
    if (fd < firstPoll || !closesOnExec) return true;
    return !file.startsWith("anon_inode:") && fd !== spare && !pipes.has(fd);
  });
  const taken = inherited.map(({ fd }) => fd);
  let free = 3;
  while (taken.includes(free)) free += 1;
  return { handed: inherited.filter(({ closesOnExec }) => closesOnExec).map(({ fd }) => fd), free };
}

/** The `stdio` of a child that gets these descriptors besides the first three and, if `channel` is given, an IPC channel at that number. */
export function stdioWith(handed: readonly number[], channel?: number): StdioOptions {
  const length = Math.max(2, channel ?? 0, ...handed) + 1;
  return [...Array(length).keys()].map((fd) => {
    if (fd === channel) return "ipc";
    return fd <= 2 || handed.includes(fd) ? fd : "ignore";
  });
}

/** The ends of the pipes with which Node.js wakes itself up: a non-blocking one for each event loop, and a blocking one for the process. */
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
  // The process's pipe is made just before that of the first loop.
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
      // The descriptor of the directory that was being listed.
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

/** The descriptor of the IPC channel to a parent that is Node.js. Nobody else can use it, so it isn't passed on. */
function ownChannel(): number | undefined {
  const [, fd] = /(?:^|\0)NODE_CHANNEL_FD=(\d+)/.exec(readFileSync("/proc/self/environ", "latin1")) ?? [];
  return fd === undefined ? undefined : Number(fd);
}
