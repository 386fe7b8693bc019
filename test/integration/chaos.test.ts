import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const program = fileURLToPath(new URL("../../chaos/run.mjs", import.meta.url));

test("under every kind of fault nobody holds beside another, nothing leaks, and no late write gets through", async () => {
  const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
    execFile(process.execPath, [program, "--minutes", "1"], (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, output: stdout + stderr }),
    );
  });
  expect(code, output).toBe(0);
  expect(output).toMatch(/^ {2}overlaps +0 while no session was ended by others, \d+ afterwards$/m);
  expect(output).toMatch(/^ {2}leaked +0 locks, 0 sessions$/m);
  expect(output).toMatch(/^\d+ acquires, \d+ faults of \d+ kinds .*, nothing wrong$/m);
}, 180_000);
