import { expect } from "vitest";
import { advisoryLocks } from "./database.ts";
import { until } from "./until.ts";

/** Whether somebody waits for an advisory lock in this file's database. */
export async function somebodyWaits(): Promise<boolean> {
  return (await advisoryLocks()).some(({ granted }) => !granted);
}

export async function nobodyWaits(): Promise<boolean> {
  return !(await somebodyWaits());
}

/** Aborts a call while it waits in the server. It rejects with the reason, and its wait in the server ends. */
export async function abortWhileItWaits(call: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const aborting = new AbortController();
  const aborted = call(aborting.signal);
  aborted.catch(() => {});
  await until(somebodyWaits);
  aborting.abort(new Error("the caller's own"));
  await expect(aborted).rejects.toThrow("the caller's own");
  await until(nobodyWaits);
}
