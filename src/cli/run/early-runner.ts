import { type Inherited, inheritedDescriptors } from "./descriptors.ts";
import { RunnerProcess } from "./runner-process.ts";

interface Started {
  readonly runner: RunnerProcess;
  readonly inherited: Inherited;
}

let started: Promise<Started> | undefined;

/**
 * Starts the runner before anything else is loaded, as its start takes as long as all of that. Until it is asked for, it keeps this
 * process from nothing: one that isn't wanted after all ends with this process.
 */
export function startRunner(): void {
  started ??= start();
  // It is told to whoever asks for it.
  started.catch(() => {});
}

/**
 * The runner, and what this process was started with.
 *
 * @throws what the system says if it can't be started
 */
export async function startedRunner(): Promise<Started> {
  const { runner, inherited } = await (started ?? start());
  runner.ref();
  return { runner, inherited };
}

async function start(): Promise<Started> {
  const inherited = inheritedDescriptors();
  return { inherited, runner: await RunnerProcess.start(inherited) };
}
