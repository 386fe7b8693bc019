import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { uniqueKey } from "../support/database.ts";
import { onDatabase } from "../support/locked-command.ts";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const onLinux = test.skipIf(process.platform !== "linux");

/**
 * Runs a shell line, in which `$PG_LOCKER` is the command line, `$KEY` a key, and `$E9` the byte of é in Latin-1. Node.js can't start such
 * a command itself.
 */
async function shell(line: string, env: Readonly<Record<string, string>> = {}) {
  const child = spawn("sh", ["-c", `E9=$(printf '\\351'); ${line}`], {
    env: {
      ...process.env,
      ...onDatabase({ PG_LOCKER: `${process.execPath} ${main}`, KEY: uniqueKey() }).env,
      ...env,
    } as NodeJS.ProcessEnv,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [stdout, stderr, [status]] = await Promise.all([
    buffer(child.stdout),
    buffer(child.stderr),
    once(child, "exit"),
  ]);
  return { status: status as number, stdout: stdout.toString("latin1"), stderr: stderr.toString() };
}

describe("bytes that are not UTF-8", () => {
  onLinux.each([
    ["in an argument", `$PG_LOCKER run $KEY -- printf '[%s]' "a$E9" b "c d" ''`, "[a\xe9][b][c d][]"],
    ["in several", `$PG_LOCKER run $KEY -- printf '[%s]' "$E9" "'$E9\\"" '$x'`, "[\xe9]['\xe9\"][$x]"],
    [
      "beside line ends and spaces",
      `$PG_LOCKER run $KEY -- printf '[%s]' "$E9
" " "`,
      "[\xe9\n][ ]",
    ],
    ["in a line of the shell", `$PG_LOCKER run $KEY --shell -- printf "'[%s]'" "$E9"`, "[\xe9]"],
    ["behind a URL", `$PG_LOCKER run $KEY --url "$DATABASE_URL" -- printf '[%s]' "a$E9"`, "[a\xe9]"],
    ["in a variable", `A="a$E9" $PG_LOCKER run $KEY -- sh -c 'printf %s "$A"'`, "a\xe9"],
    ["in both", `A="a$E9" $PG_LOCKER run $KEY -- sh -c 'printf %s "$A$1"' sh "$E9"`, "a\xe9\xe9"],
    [
      "beside a variable with an odd name",
      `env "a.b=1" $PG_LOCKER run $KEY -- sh -c 'printf %s "$1"; tr "\\0" "\\n" < /proc/$$/environ | grep -c "^a.b=1"' sh "$E9"`,
      "\xe91\n",
    ],
  ])("reach the command as they are: %s", async (_, line, expected) => {
    expect(await shell(line)).toEqual({ status: 0, stdout: expected, stderr: "" });
  });

  onLinux("in a variable leave the others, those of the lock among them, what they are", async () => {
    const { stdout } = await shell(
      `A="$E9" env "a.b=c" PG_LOCKER_FENCING_TOKEN=no $PG_LOCKER run $KEY -s -- env`,
    );
    expect(stdout).toContain("\na.b=c\n");
    expect(stdout).toMatch(/\nPG_LOCKER_KEY=key:/);
    expect(stdout).toMatch(/\nPG_LOCKER_RUN=[\da-f-]{36}\n/);
    expect(stdout).not.toContain("PG_LOCKER_FENCING_TOKEN");
    expect(stdout).not.toContain("NODE_CHANNEL");
  });

  test.each([
    ["a key of run", `$PG_LOCKER run "k$E9" -- echo run`],
    ["a key of id", `$PG_LOCKER id "k$E9"`],
    ["a key of who", `$PG_LOCKER who "k$E9"`],
    ["a URL", `$PG_LOCKER run $KEY --url "postgres://$E9@x" -- echo run`],
  ])("are refused in %s", async (_, line) => {
    const { status, stdout, stderr } = await shell(line);
    expect([status, stdout]).toEqual([64, ""]);
    expect(stderr).toMatch(/^pg-locker: Expected UTF-8, but this argument is not: ".*"\n$/);
  });
});

onLinux("the character that stands for such bytes is one like any other", async () => {
  const { status, stdout } = await shell(`$PG_LOCKER run "$KEY\u{fffd}" -- printf %s "\u{fffd}"`);
  expect([status, stdout]).toEqual([0, "\xef\xbf\xbd"]);
});

const withoutProc = ["--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"];

test.skipIf(spawnSync("unshare", [...withoutProc, "true"]).status !== 0)(
  "without /proc, an argument that isn't UTF-8 is 64 (skipped unless root)",
  () => {
    const env = { ...process.env, ...onDatabase().env } as NodeJS.ProcessEnv;
    const run = (script: string) => {
      const args = [...withoutProc, "sh", "-c", script, "sh", process.execPath, main, "run", uniqueKey()];
      return spawnSync("unshare", args, { env, encoding: "utf8" });
    };
    const refused = run(`exec "$@" -- printf "a$(printf '\\351')"`);
    expect([refused.status, refused.stdout]).toEqual([64, ""]);
    expect(refused.stderr).toMatch(/^pg-locker: Expected UTF-8, but this argument is not: .*\n$/);
    const { status, stdout, stderr } = run('exec "$@" -- sh -c "echo run; exit 5"');
    expect([status, stdout, stderr]).toEqual([5, "run\n", ""]);
  },
);
