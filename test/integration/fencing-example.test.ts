import { expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";

/** The example's output. It is plain text, which {@link Child} treats as standard error. */
async function run(env: Readonly<Record<string, string>>): Promise<{ code: number | null; said: string[] }> {
  await using child = Child.start("../../../examples/fencing.mjs", {
    env: { DATABASE_URL: databaseUrl(), ...env },
  });
  const { code } = await child.exited;
  const said = child.stderr.trimEnd().split("\n");
  return { code, said: said.map((line) => line.replace("(standard output, not JSON) ", "")) };
}

const tokensIn = (lines: readonly string[]) =>
  lines.flatMap((line) => /token (\d+)/.exec(line)?.[1] ?? []).map(BigInt);

test("the write of a paused worker that comes back too late is always refused", async () => {
  const key = uniqueKey("report");
  const pool = createPool();
  let last = 0n;
  for (let round = 0; round < 2; round++) {
    const { code, said } = await run({ KEY: key, TTL: "500ms" });
    const [first, second, stored] = tokensIn(said);
    expect(said).toEqual([
      `the first worker has the lock of "${key}", with the token ${first}, and is about to write`,
      "the first worker is paused (SIGSTOP), for longer than its TTL of 500ms",
      `the server has freed the lock: the second worker has it, with the token ${second}`,
      "the second worker's write is accepted",
      "the first worker goes on (SIGCONT), and writes",
      "the first worker's late write is refused; it knows now that it no longer holds",
      `the table has what the second worker wrote, with the token ${second}`,
    ]);
    expect(code).toBe(0);
    expect(second).toBeGreaterThan(first ?? 0n);
    expect(first).toBeGreaterThan(last);
    last = second ?? 0n;
    const { rows } = await pool.query("select token, written_by from fenced_writes where key = $1", [key]);
    expect(rows).toEqual([{ token: String(stored), written_by: "the second worker" }]);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
  }
});

test("the example fails, and leaves no worker, if the resource has a larger token", async () => {
  const key = uniqueKey("report");
  const pool = createPool();
  await pool.query(
    "create table if not exists fenced_writes (key text primary key, token bigint not null, written_by text not null)",
  );
  // As after restoring a dump into a new cluster.
  await pool.query("insert into fenced_writes values ($1, $2, 'somebody')", [
    key,
    (2n ** 63n - 1n).toString(),
  ]);
  const { code, said } = await run({ KEY: key, TTL: "500ms" });
  expect(said).toContain("the second worker's write is refused");
  expect(code).toBe(1);
  const { rows } = await pool.query("select written_by from fenced_writes where key = $1", [key]);
  expect(rows).toEqual([{ written_by: "somebody" }]);
});
