// Draws the time line as text of at most 100 columns.

const columns = 86;
const colours = [36, 33, 35];

/** A text from elsewhere in a line, without characters that would move the cursor. */
export function plain(text) {
  return text.replace(/\p{C}/gu, "\ufffd");
}

/** Functions that colour a text, or return it unchanged. */
export function painter(coloured) {
  const paint = (code) => (text) => (coloured ? `\u001b[${code}m${text}\u001b[0m` : text);
  return {
    worker: (number) => paint(colours[(number - 1) % colours.length]),
    bad: paint("1;31"),
    good: paint("1;32"),
    dim: paint(2),
    bold: paint(1),
  };
}

/** Draws a row for each worker that shows when its processes lived and when they held the lock. */
export function chart(run, paint) {
  const { turns, lives, from, to } = run;
  const column = (at) =>
    Math.min(columns - 1, Math.max(0, Math.floor(((at - from) / (to - from)) * columns)));
  const rows = [1, 2, 3].map((worker) => {
    const cells = new Array(columns).fill(" ");
    for (const life of lives.filter((each) => each.worker === worker)) {
      cells.fill(paint.dim("·"), column(life.from), column(life.to ?? to) + 1);
    }
    for (const turn of turns.filter((each) => each.worker === worker)) {
      const [start, end] = [column(turn.start), column(turn.end)];
      cells.fill(paint.worker(worker)("█"), start, Math.max(end, start + 1));
      if (turn.ended === "killed") cells[end] = paint.bad("✗");
    }
    return `  worker ${worker}  ${cells.join("")}`;
  });
  return [...rows, axis(to - from)].join("\n");
}

function axis(length) {
  const every = length > 12_000 ? 2_000 : 1_000;
  const line = new Array(columns + 8).fill(" ");
  for (let at = 0; at <= length; at += every) {
    const label = `${at / 1_000} s`;
    const where = Math.floor((at / length) * columns);
    if (where + label.length <= columns + 1) line.splice(where, label.length + 1, "╵", ...label);
  }
  return `            ${line.join("").trimEnd()}`;
}

/** Writes a line for each turn and each kill. */
export function events(run, paint) {
  const { turns, from } = run;
  let killed;
  const lines = turns.flatMap((turn) => {
    const who = paint.worker(turn.worker)(`worker ${turn.worker}`);
    const head = (at) => `  ${((at - from) / 1_000).toFixed(3).padStart(7)} s  ${who}  `;
    const held = `${(turn.end - turn.start).toFixed(0)} ms`;
    const counted = turn.wrote === undefined ? "" : `counter ${turn.read} → ${turn.wrote}`;
    const took = killed === undefined ? "" : `  ◀ took over ${since(turn, killed)} after the kill`;
    const line = `held ${held.padStart(6)}  ${counted.padEnd(16)}${paint.dim(`pid ${turn.pid}`)}${paint.good(took)}`;
    killed = turn.ended === "killed" ? turn : undefined;
    if (turn.ended === "released") return [head(turn.start) + line];
    const end =
      turn.ended === "killed" ? "✗ SIGKILL in mid-work, the lock never released" : `✗ ${turn.ended}`;
    return [head(turn.start) + line, head(turn.end) + paint.bad(end)];
  });
  return lines.join("\n");
}

function since(turn, killed) {
  return `${(turn.start - killed.killedAt).toFixed(1)} ms`;
}
