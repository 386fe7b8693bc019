import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readLockFile, removeIfStale } from "../../src/cli/own-server/lock-files.ts";

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "pg-locker-"));
  path = join(directory, "postmaster.pid");
});

afterEach(() => rmSync(directory, { recursive: true }));

/** A lock file as a server writes it. */
function text(pid: number | undefined, status = "ready   "): string {
  return `${pid}\n${directory}\n1764109940\n5432\n/tmp\n\n  5432001    196608\n${status}\n`;
}

test("a lock file says whose it is, of which data, and whether the server lets in", () => {
  writeFileSync(path, text(4_321));
  expect(readLockFile(path)).toMatchObject({ pid: 4_321, data: directory, isReady: true });
  writeFileSync(path, text(4_321, "starting"));
  expect(readLockFile(path)).toMatchObject({ pid: 4_321, isReady: false });
});

test("a lock file that is missing, or half written, reads as nothing", () => {
  expect(readLockFile(path)).toBeUndefined();
  for (const half of ["", "\n", "x\n", "-1\n"]) {
    writeFileSync(path, half);
    expect(readLockFile(path)).toBeUndefined();
  }
});

describe("a lock file is removed", () => {
  test("if its process id now belongs to another program", () => {
    writeFileSync(path, text(process.pid));
    removeIfStale(path);
    expect(readdirSync(directory)).toEqual([]);
  });

  test("if it has been empty for longer than a server takes to write it", () => {
    writeFileSync(path, "");
    removeIfStale(path);
    expect(existsSync(path)).toBe(true);
    utimesSync(path, new Date(0), new Date(0));
    removeIfStale(path);
    expect(readdirSync(directory)).toEqual([]);
  });
});

test("a lock file without a process stays, because PostgreSQL handles that", () => {
  writeFileSync(path, text(spawnSync("true").pid));
  removeIfStale(path);
  expect(existsSync(path)).toBe(true);
  removeIfStale(join(directory, "none"));
});
