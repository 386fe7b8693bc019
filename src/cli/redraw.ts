import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import { onCtrlZ } from "./ctrl-z.ts";
import { exitStatus } from "./exit-status.ts";

/** What goes on a screen that is drawn again and again. */
export interface Redrawn {
  /** Its first line. */
  readonly head: () => string;
  /** What is below it. The signal aborts when nobody looks any more. */
  readonly body: (signal: AbortSignal) => Promise<string>;
  /** Milliseconds from one look to the next. */
  readonly every: number;
}

const ending = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
/** What a terminal has that does not tell. */
const usual = { rows: 24, columns: 80 };

const screen = {
  /** The terminal's other screen, which leaves no trace on the one that it came from, and no cursor. */
  take: "\x1b[?1049h\x1b[?25l",
  giveBack: "\x1b[?25h\x1b[?1049l",
  clear: "\x1b[H\x1b[2J",
};

/**
 * Shows something on the terminal, again and again, until a signal ends it, and puts the terminal back. The first look comes
 * before the screen is taken: what is wrong with that is thrown. A later one that fails is shown, and no reason to go.
 *
 * @returns the exit status: 128 and the signal's number
 * @throws what the first look throws
 */
export async function redraw({ head, body, every }: Redrawn): Promise<number> {
  const ended = new AbortController();
  let text = `${head()}\n\n${await body(ended.signal)}`;
  let isTaken = false;
  const draw = (): void => {
    if (isTaken) process.stdout.write(`${screen.clear}${fitted(text, process.stdout)}`);
  };
  const take = (): void => {
    isTaken = true;
    process.stdout.write(screen.take);
    draw();
  };
  const leave = (): void => {
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
  // The shell gets its screen back meanwhile.
  const ctrlZ = onCtrlZ(to);
  const hangUp = (): void => to.end("SIGHUP");
  for (const signal of ending) process.on(signal, to.end);
  stdout.on("resize", to.resize);
  // The terminal has gone.
  stdout.on("error", hangUp);
  return {
    // The last listener stays: what is written at the end fails as well.
    [Symbol.dispose]: () => {
      ctrlZ[Symbol.dispose]();
      for (const signal of ending) process.removeListener(signal, to.end);
      stdout.removeListener("resize", to.resize);
    },
  };
}

/**
 * As many whole lines as there is room for, where a line that is too long goes on in the next.
 *
 * @param size of the terminal; 0 or absent where that doesn't tell
 */
export function fitted(text: string, size: { rows?: number; columns?: number }): string {
  const rows = size.rows || usual.rows;
  const columns = size.columns || usual.columns;
  const lines = text.split("\n");
  const heights = lines.map((line) => Math.max(1, Math.ceil(widthOf(line) / columns)));
  if (sum(heights) <= rows) return text;
  let shown = 0;
  // The last row is for what is said of the others.
  while (sum(heights.slice(0, shown + 1)) < rows) shown += 1;
  const left = lines.length - shown;
  return [...lines.slice(0, shown), `… and ${left} more line${left === 1 ? "" : "s"}`].join("\n");
}

/** As many columns as a line takes, or more: what is not ASCII may be as wide as two. */
function widthOf(line: string): number {
  return sum([...stripVTControlCharacters(line)].map((character) => (character <= "~" ? 1 : 2)));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
