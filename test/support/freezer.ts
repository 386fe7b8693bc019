import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hasCode } from "../../src/contract/caught-error.ts";
import { until } from "./until.ts";

/** Where Linux shows the groups that can be frozen, in either version, and how: the file, its words, and where it says that all are frozen. */
const versions = [
  ...["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map((root) => ({
    root,
    file: "cgroup.freeze",
    words: ["1", "0"],
    told: { file: "cgroup.events", line: /^frozen 1$/m },
  })),
  {
    root: "/sys/fs/cgroup/freezer",
    file: "freezer.state",
    words: ["FROZEN", "THAWED"],
    told: { file: "freezer.state", line: /^FROZEN$/m },
  },
] as const;

/**
 * Processes that stand still together, and notice nothing of it: no signal, no end of a stop that a parent could see. That is what a
 * suspended machine does to them, except that their monotonic clock goes on. Needs Linux and root.
 */
export class Freezer implements AsyncDisposable {
  readonly #folder: string;
  readonly #version: (typeof versions)[number];

  private constructor(version: (typeof versions)[number]) {
    this.#version = version;
    this.#folder = join(version.root, `pgl${randomBytes(3).toString("hex")}`);
    mkdirSync(this.#folder);
  }

  /** Whether this machine lets us make one. */
  static get allowed(): boolean {
    return versions.some((version) => isUsable(version));
  }

  /** Makes one of these processes and of all that they start from now on. */
  static of(pids: readonly number[]): Freezer {
    const version = versions.find((each) => isUsable(each));
    if (version === undefined) throw new Error("No group of processes can be frozen here");
    const freezer = new Freezer(version);
    for (const pid of pids) freezer.#write("cgroup.procs", String(pid));
    return freezer;
  }

  /** Resolves when all of them stand still. */
  async freeze(): Promise<void> {
    const { file, words, told } = this.#version;
    this.#write(file, words[0]);
    const isFrozen = (): boolean => told.line.test(readFileSync(join(this.#folder, told.file), "utf8"));
    await until(isFrozen, { deadline: 5_000 });
  }

  thaw(): void {
    this.#write(this.#version.file, this.#version.words[1]);
  }

  /** Lets them go on, outside. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.thaw();
    await until(() => {
      const pids = readFileSync(join(this.#folder, "cgroup.procs"), "utf8").split("\n").filter(Boolean);
      for (const pid of pids) moveTo(this.#version.root, pid);
      return pids.length === 0;
    });
    rmdirSync(this.#folder);
  }

  #write(file: string, text: string): void {
    writeFileSync(join(this.#folder, file), text);
  }
}

function moveTo(group: string, pid: string): void {
  try {
    writeFileSync(join(group, "cgroup.procs"), pid);
  } catch (error) {
    // It has ended.
    if (!hasCode(error, "ESRCH")) throw error;
  }
}

function isUsable(version: (typeof versions)[number]): boolean {
  try {
    const probe = join(version.root, `pgl${randomBytes(3).toString("hex")}`);
    mkdirSync(probe);
    const usable = existsSync(join(probe, version.file));
    rmdirSync(probe);
    return usable;
  } catch {
    return false;
  }
}
