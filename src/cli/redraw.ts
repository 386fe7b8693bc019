import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import { onCtrlZ } from "./ctrl-z.ts";
import { exitStatus } from "./exit-status.ts";
import { shown } from "./plain.ts";

/** What is shown on a screen that is redrawn again and again. */
export interface Redrawn {
  /** Returns its first line. */
  readonly head: () => string;
  /** Returns what is below the first line. The signal aborts when the command ends. */
  readonly body: (signal: AbortSignal) => Promise<string>;
  /** Milliseconds between two redraws. */
  readonly every: number;
}

const ending = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
/** Events of a process that ends otherwise: the first one comes before anybody is told of the error. */
const unexpected = ["uncaughtExceptionMonitor", "exit"] as const;
/** The size of a terminal that doesn't tell its size. */
const usual = { rows: 24, columns: 80 };

const screen = {
  /** Switches to the terminal's alternate screen, which leaves the usual one untouched, and hides the cursor. */
  take: "\x1b[?1049h\x1b[?25l",
  giveBack: "\x1b[?25h\x1b[?1049l",
  clear: "\x1b[H\x1b[2J",
};

/**
 * Shows something on the terminal, again and again, until a signal ends it. The terminal is restored, also if an error that nobody
 * catches ends the process. The first content is read before the screen is switched, and its errors are thrown. A later error is shown on
 * the screen, and doesn't end the command.
 *
 * @returns the exit status: 128 and the signal's number
 * @throws the errors of the first `body`
 */
export async function redraw({ head, body, every }: Redrawn): Promise<number> {
  const ended = new AbortController();
  let text = `${head()}\n\n${await body(ended.signal)}`;
  let isTaken = false;
  const draw = (): void => {
    if (isTaken) process.stdout.write(`${screen.clear}${fitted(shown(text), process.stdout)}`);
  };
  const take = (): void => {
    isTaken = true;
    process.stdout.write(screen.take);
    draw();
  };
  const leave = (): void => {
    if (!isTaken) return;
    isTaken = false;
    process.stdout.write(screen.giveBack);
  };
  using _signals = listen({
    end: (signal) => ended.abort(signal),
    stop: leave,
    goOn: take,
    resize: draw,
  });
  take();
  try {
    for (;;) {
      await delay(every, undefined, { signal: ended.signal });
      const seen = await body(ended.signal).catch((error: Error) => error.message);
      ended.signal.throwIfAborted();
      text = `${head()}\n\n${seen}`;
      draw();
    }
  } catch (error) {
    if (!ended.signal.aborted) throw error;
    return exitStatus.signalled + constants.signals[ended.signal.reason as NodeJS.Signals];
  } finally {
    leave();
  }
}

function listen(to: {
  end: (signal: NodeJS.Signals) => void;
  stop: () => void;
  goOn: () => void;
  resize: () => void;
}): Disposable {
  const { stdout } = process;
  // While the process is stopped, the shell has its own screen.
  const ctrlZ = onCtrlZ(to);
  const hangUp = (): void => to.end("SIGHUP");
  for (const signal of ending) process.on(signal, to.end);
  for (const end of unexpected) process.on(end, to.stop);
  stdout.on("resize", to.resize);
  // The terminal has gone.
  stdout.on("error", hangUp);
  return {
    // This last listener stays, because what is written at the end may fail too.
    [Symbol.dispose]: () => {
      ctrlZ[Symbol.dispose]();
      for (const signal of ending) process.removeListener(signal, to.end);
      for (const end of unexpected) process.removeListener(end, to.stop);
      stdout.removeListener("resize", to.resize);
    },
  };
}

/**
 * The text cut to as many whole lines as fit the terminal, in which a line that is too long takes several rows.
 *
 * @param size of the terminal; 0 or absent if it doesn't tell
 */
export function fitted(text: string, size: { rows?: number; columns?: number }): string {
  const rows = size.rows || usual.rows;
  const columns = size.columns || usual.columns;
  const lines = text.split("\n");
  const heights = lines.map((line) => Math.max(1, Math.ceil(widthOf(line) / columns)));
  if (sum(heights) <= rows) return text;
  let shown = 0;
  // The last row is for the line that says how many more there are.
  while (sum(heights.slice(0, shown + 1)) < rows) shown += 1;
  const left = lines.length - shown;
  return [...lines.slice(0, shown), `… and ${left} more line${left === 1 ? "" : "s"}`].join("\n");
}

/** An upper bound of the columns that a line takes: a character outside ASCII may be two columns wide. */
function widthOf(line: string): number {
  return sum([...stripVTControlCharacters(line)].map((character) => (character <= "~" ? 1 : 2)));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
