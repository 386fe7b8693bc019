import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const program = fileURLToPath(new URL("../../chaos/run.mjs", import.meta.url));

function run(...args: string[]): Promise<{ code: unknown; output: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, output: stdout + stderr }),
    );
  });
}

test("a seed gives the same faults at the same times; another seed gives others", async () => {
  const plan = (seed: number) => run("--plan", "--minutes", "1", "--seed", String(seed));
  const [one, again, another] = await Promise.all([plan(42), plan(42), plan(43)]);
  expect(again).toEqual(one);
  expect(another.output).not.toBe(one.output);
  const own = ["kill", "stop-short", "stop-long", "block", "hole-both", "hole-up", "hole-down", "latency"];
  const links = ["half-close", "reset", "vanish", "clock-forward", "clock-back"];
  const others = ["terminate", "terminate-in-hole", "reset-both", "half-close-server", "pooler-kill"];
  const stalls = ["stall-stop", "stall-block"];
  const server = ["restart", "crash", "backend-kill", "crash-in-hole", "promotion", "failover"];
  for (const kind of [...own, ...stalls, ...links, ...others, ...server]) {
    expect(one.output).toMatch(new RegExp(` ${kind}(,| for|$)`, "m"));
  }
});

test("under every fault no two hold at once, nothing leaks, no late write passes", async () => {
  const { code, output } = await run("--minutes", "0.5");
  expect(code, output).toBe(0);
  expect(output).toMatch(/^ {2}overlaps +0 while no session was ended from outside, \d+ afterwards$/m);
  expect(output).toMatch(/^ {2}leaked +0 locks, 0 sessions$/m);
  expect(output).toMatch(/^\d+ acquires, \d+ faults of \d+ kinds .*, nothing wrong$/m);
}, 180_000);
