import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { databaseUrl } from "../support/database.ts";

const program = fileURLToPath(new URL("../../demo/demo.mjs", import.meta.url));

test("the demo kills two holders, sees two take-overs and no overlap, and exits with 0", async () => {
  const env = { ...process.env, DATABASE_URL: databaseUrl() };
  const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
    execFile(process.execPath, [program], { env }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, output: stdout + stderr }),
    );
  });
  expect(code, output).toBe(0);
  expect(output).toMatch(/^ {2}turns +\d+: \d+ finished, 2 killed in mid-work$/m);
  expect(output).toMatch(/^ {2}take-over +[\d.]+ ms, [\d.]+ ms from the kill to the next holder$/m);
  expect(output).toMatch(/^0 overlaps$/m);
  expect(Math.max(...output.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
});
