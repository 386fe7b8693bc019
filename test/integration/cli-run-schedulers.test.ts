import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";

// Runs what docs/cli.md shows, with the paths and the database of this machine.

const docs = readFileSync("docs/cli.md", "utf8");
const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const hasSystemd = spawnSync("systemd-analyze", ["--version"]).status === 0;

function block(language: string, after: string): string {
  const section = docs.slice(docs.indexOf(after));
  const [, text = ""] = new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``).exec(section) ?? [];
  return text;
}

/** A folder with the programs that the docs have in /usr/local/bin. */
function installed(report: string): { folder: string; [Symbol.dispose](): void } {
  const folder = mkdtempSync(join(tmpdir(), "pg-locker-"));
  mkdirSync(join(folder, "bin"));
  symlinkSync(process.execPath, join(folder, "bin/node"));
  for (const [name, text] of [
    ["pg-locker", `#!/bin/sh\nexec node "${main}" "$@"\n`],
    ["report", `#!/bin/sh\n${report}\n`],
  ] as const) {
    writeFileSync(join(folder, "bin", name), text);
    chmodSync(join(folder, "bin", name), 0o755);
  }
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true }) };
}

describe("the crontab of docs/cli.md", () => {
  /** Runs the crontab's third line as cron does: with /bin/sh, and hardly any environment except what the other lines set. */
  function cron(folder: string, key: string) {
    const [path = "", , job = ""] = block("crontab", "### In a crontab").split("\n");
    const here = (text: string) =>
      text.replaceAll("/usr/local/bin", join(folder, "bin")).replace(" nightly ", ` ${key} `);
    const line = here(job.replace(/^(\S+ +){5}/, ""));
    const [name = "", value = ""] = here(path).split("=", 2);
    return spawnSync("/bin/sh", ["-c", line], {
      env: { HOME: folder, LOGNAME: "ops", SHELL: "/bin/sh", [name]: value, DATABASE_URL: databaseUrl() },
      stdio: ["ignore", "pipe", "pipe"],
      encoding: "utf8",
    });
  }

  test("runs the job, and mails nothing of its own", () => {
    using here = installed("echo reported");
    expect(cron(here.folder, uniqueKey())).toMatchObject({ status: 0, stdout: "reported\n", stderr: "" });
  });

  test("is silent if another machine is running the job", async () => {
    using here = installed("echo reported");
    await using locker = createLocker();
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    expect(cron(here.folder, key)).toMatchObject({ status: 0, stdout: "", stderr: "" });
  });

  test("mails that the job failed to start", () => {
    using here = installed("");
    rmSync(join(here.folder, "bin/report"));
    const { status, stderr } = cron(here.folder, uniqueKey());
    expect([status, stderr]).toEqual([127, expect.stringContaining("was not found")]);
  });
});

test("the command of the CronJob of docs/cli.md runs the job", () => {
  using here = installed("echo reported");
  const yaml = block("yaml", "### In a Kubernetes CronJob");
  const [, list = ""] = /command: (\[.*\])/.exec(yaml) ?? [];
  const [, ...args] = JSON.parse(list.replaceAll("/usr/local/bin", join(here.folder, "bin"))) as string[];
  const found = spawnSync(
    process.execPath,
    [main, ...args.map((each) => (each === "nightly" ? uniqueKey() : each))],
    {
      env: { ...process.env, DATABASE_URL: databaseUrl() },
      encoding: "utf8",
    },
  );
  expect(found).toMatchObject({ status: 0, stdout: "reported\n", stderr: "" });
});

test.skipIf(!hasSystemd)("systemd accepts the units of docs/cli.md", () => {
  using here = installed("echo reported");
  const section = docs.slice(docs.indexOf("### In a systemd timer"), docs.indexOf("## `pg-locker ls`"));
  const units = [...section.matchAll(/```ini\n# \S+\/(\S+)\n([\s\S]*?)```/g)].map(
    ([, name = "", text = ""]) => {
      const file = join(here.folder, name);
      writeFileSync(file, text.replaceAll("/usr/local/bin", join(here.folder, "bin")));
      return file;
    },
  );
  expect(units).toHaveLength(2);
  const { status, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", ...units], {
    env: { ...process.env, SYSTEMD_UNIT_PATH: `${dirname(units[0] ?? "")}:` },
    encoding: "utf8",
  });
  expect([status, stderr]).toEqual([0, ""]);
});
