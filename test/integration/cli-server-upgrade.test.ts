import { readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { UserState } from "../support/own-server.ts";

test("with another major version of one's own PostgreSQL, fencing tokens keep growing", async () => {
  await using user = await UserState.create();
  const token = async (): Promise<bigint> => {
    const args = ["run", "k", "--local", "--shell", "--", "echo $PG_LOCKER_FENCING_TOKEN"];
    const { status, stdout, stderr } = await user.cli(args);
    expect([status, stderr]).toEqual([0, ""]);
    return BigInt(stdout);
  };
  const stop = async () => expect((await user.cli(["server", "stop"])).status).toBe(0);
  const tokens = [await token()];
  await stop();
  // Only one major version is installed here: copies of its data stand for the data of others.
  const major = Number((await readdir(user.folder)).find((name) => /^\d+$/.test(name)));
  const move = (from: number, to: number) => rename(join(user.folder, `${from}`), join(user.folder, `${to}`));
  await move(major, major - 1);
  tokens.push(await token());
  await stop();
  // Back to the older version, while the newer one's data stay.
  await move(major, major + 1);
  await move(major - 1, major);
  tokens.push(await token());
  await stop();
  // Nothing is raised if nothing has changed.
  tokens.push(await token());
  expect(tokens).toEqual([...tokens].sort((one, other) => (one < other ? -1 : 1)));
  expect(tokens.map((each) => each >> 48n)).toEqual([1n, 2n, 3n, 3n]);
}, 90_000);
