import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { Work } from "../../src/cli/run/control-channel.ts";
import { currentMoment, later, left, marginOf } from "../../src/cli/run/deadline.ts";
import { SupervisedCommand } from "../../src/cli/run/supervised-command.ts";
import { lives } from "../support/tagged-processes.ts";
import { until } from "../support/until.ts";

/** A shell script that does nothing until it is ended. */
const idle = "while :; do sleep 0.1; done";

// As in a runner, which has the mark of its run.
beforeAll(() => {
  vi.stubEnv("PG_LOCKER_RUN", randomUUID());
  return () => vi.unstubAllEnvs();
});

const anHour = 3_600_000;
const grace = anHour / 4;

function work(script: string, environment = {}): Work {
  return {
    program: { file: "sh", args: ["-c", script] },
    descriptors: [],
    isRaw: false,
    environment,
    until: later(currentMoment(), anHour),
    grace,
    margin: 100,
  };
}

/** Starts a command that ignores SIGTERM, and waits until it does. */
async function startDeaf(): Promise<SupervisedCommand> {
  const directory = await mkdtemp(join(tmpdir(), "pg-locker-"));
  const ready = join(directory, "ready");
  const command = new SupervisedCommand(work(`trap '' TERM; : > "$READY"; ${idle}`, { READY: ready }));
  await until(() => existsSync(ready), { deadline: 15_000 });
  await rm(directory, { recursive: true });
  return command;
}

describe("a command that is supervised", () => {
  test("is killed without a grace if the machine slept past the lock's TTL", async () => {
    const command = await startDeaf();
    const { monotonic, wall } = currentMoment();
    command.relyUntil({ monotonic: monotonic + anHour, wall });
    expect(await command.ended).toEqual({
      is: "ended",
      status: null,
      signal: constants.signals.SIGKILL,
      stopped: "deadline",
    });
    expect(lives(command.leader ?? 0)).toBe(false);
  });

  test("is killed when the monotonic clock says so, if the wall clock was set back", async () => {
    const command = await startDeaf();
    const { monotonic, wall } = currentMoment();
    command.relyUntil({ monotonic, wall: wall + anHour });
    expect(await command.ended).toMatchObject({ signal: constants.signals.SIGKILL, stopped: "deadline" });
  });

  test("gets SIGTERM even while it is stopped, as by Ctrl-Z", async () => {
    const command = new SupervisedCommand(work(idle));
    command.signal("SIGSTOP");
    command.stop("told", anHour);
    expect(await command.ended).toMatchObject({ signal: constants.signals.SIGTERM, stopped: "told" });
  });

  test("that has ended by itself gets no more signals to its former group", async () => {
    const command = new SupervisedCommand(work("exit 7"));
    command.relyUntil(later(currentMoment(), 2 * anHour));
    expect(await command.ended).toEqual({ is: "ended", status: 7, signal: null });
    // By now its group may belong to somebody else.
    command.signal("SIGKILL");
    command.stop("told", 0);
  });
});

test("the time left is that of the clock that has moved further", () => {
  const { monotonic, wall } = currentMoment();
  expect(left({ monotonic: monotonic + 5_000, wall: wall + 60_000 })).toBeLessThanOrEqual(5_000);
  expect(left({ monotonic: monotonic + 60_000, wall: wall + 5_000 })).toBeLessThanOrEqual(5_000);
});

test.each([
  [1_000, 100],
  [30_000, 2_060],
  [86_400_000, 174_800],
])("the margin of a TTL of %s ms is %s ms: a tenth, or how far clocks may differ", (ttl, margin) => {
  expect(marginOf(ttl)).toBe(margin);
});
