import { expect, test } from "vitest";
import { listLocks } from "../../src/index.ts";
import { descriptionComment, descriptionIn } from "../../src/inspection/lock-description.ts";
import { CliChild, cli, Terminal } from "../support/cli.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";
import { until } from "../support/until.ts";

// The options `--name` and `--detail` of `run`.

test("who, ls and waiters show the name and detail of a run, while it is refreshed", async () => {
  const key = uniqueKey();
  const said = ["--name", "Nightly /* é */", "--detail=ticket 4711\u001b[31m", "--ttl=1s"];
  await using child = CliChild.start(["run", key, ...said, "--", "sleep", "60"], onDatabase());
  const described = async () => (await listLocks(createPool()))[0]?.description;
  expect(await until(described, { deadline: 15_000 })).toEqual({
    name: "Nightly /* é */",
    detail: "ticket 4711\u001b[31m",
  });
  const refreshed = async () => (await listLocks(createPool()))[0]?.activeAt?.getTime() ?? 0;
  const before = await refreshed();
  await until(async () => (await refreshed()) > before + 500);
  await until(described);
  const line = "    Nightly /* é */: ticket 4711\\u001b[31m\n";
  // Between a refresh and the statement after it, nothing is shown for a moment.
  await until(async () => (await cli(["who", key], onDatabase())).stdout.includes(line), {
    deadline: 15_000,
  });
  await until(async () => (await cli(["ls"], onDatabase())).stdout.includes(line), { deadline: 15_000 });
  await using terminal = Terminal.cli(["run", key, "--wait", "--", "true"], onDatabase());
  await terminal.shows(
    /held by [^;]+ at most(; it says: Nightly \/\* é \*\/: ticket 4711\\u001b\[31m)?\r?\n/,
  );
  terminal.type("\x03");
  await terminal.ended;
  child.signal("SIGTERM");
  await child.ended;
});

test("a name that is too long to be shown is refused, and nothing is run", async () => {
  const { status, stdout, stderr } = await cli(
    ["run", uniqueKey(), "--name", "é".repeat(170), "--", "echo", "ran"],
    onDatabase(),
  );
  expect([status, stdout]).toEqual([64, ""]);
  expect(stderr).toContain("Expected --name and --detail to be shorter");
});

test("a text that the server has cut off is shown cut, and texts of others are not", () => {
  const comment = descriptionComment({ name: "n", detail: "d".repeat(300) }) ?? "";
  expect(descriptionIn(comment.slice(0, 99))).toEqual({
    name: "n",
    detail: expect.stringMatching(/^d{50,}…$/) as string,
  });
  expect(descriptionIn("/* pg-locker [7] */")).toBeUndefined();
  expect(descriptionIn("/* pg-locker nothing */ select 1")).toBeUndefined();
  expect(descriptionIn("select 1")).toBeUndefined();
});
