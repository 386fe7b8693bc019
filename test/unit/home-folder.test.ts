import { userInfo } from "node:os";
import { afterEach, expect, test, vi } from "vitest";
import { homeFolder } from "../../src/cli/home-folder.ts";

afterEach(() => vi.unstubAllEnvs());

test("HOME is the home folder if it is absolute", () => {
  vi.stubEnv("HOME", "/somewhere");
  expect(homeFolder()).toBe("/somewhere");
});

test.each(["", "relative", "./here"])("the home folder is the account's if HOME is %j", (home) => {
  vi.stubEnv("HOME", home);
  expect(homeFolder()).toBe(userInfo().homedir);
});
