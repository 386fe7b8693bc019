import { type Inherited, inheritedDescriptors } from "./descriptors.ts";
import { PassedSignals } from "./passed-signals.ts";
import { RunnerProcess } from "./runner-process.ts";

interface Started {
  readonly runner: RunnerProcess;
  readonly inherited: Inherited;
}

let started: Promise<Started> | undefined;
let signals: PassedSignals | undefined;

/**
 * Starts the runner before anything else is loaded, because its start takes as long as all of that. Until `startedRunner` is called, it
 * doesn't keep this process alive, and it ends with this process.
 */
export function startRunner(): void {
  started ??= start();
  // After that, because it opens something. From now on, SIGUSR1 starts no debugger, and no signal is missed.
  passedSignals();
  // The error is thrown by `startedRunner`.
  started.catch(() => {});
}

/** The signals to this process since the runner was started. */
export function passedSignals(): PassedSignals {
  signals ??= new PassedSignals();
  return signals;
}

/**
 * Returns the runner, and the descriptors that this process has inherited.
 *
 * @throws the system's error if the runner can't be started
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
