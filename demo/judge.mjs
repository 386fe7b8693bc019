// Decides from the processes' journals whether the run was right. This file only computes.

/**
 * The turns of all workers, in the order in which they began.
 *
 * A turn begins when `tryAcquire` has returned and ends before `release` is called: during that time its process relies on the lock. The
 * turn of a killed process ends when it is killed, or with its last line if that is later.
 */
export function turnsOf(lines, kills) {
  const turns = [];
  const open = new Map();
  for (const line of lines) {
    if (line.what === "acquired") {
      const { worker, pid, at } = line;
      const turn = { worker, pid, start: at, end: at, ended: "unfinished", complaints: [] };
      turns.push(turn);
      open.set(pid, turn);
      continue;
    }
    const turn = open.get(line.pid);
    if (turn === undefined) continue;
    turn.end = line.at;
    if (line.what === "read") turn.read = line.counter;
    if (line.what === "wrote") turn.wrote = line.counter;
    if (line.what === "corrupted") turn.complaints.push(line.complaint);
    if (line.what === "releasing" || line.what === "lost") {
      turn.ended = line.what === "lost" ? "lost" : "released";
      open.delete(line.pid);
    }
  }
  for (const { pid, at } of kills) {
    const turn = open.get(pid);
    if (turn === undefined) continue;
    turn.ended = "killed";
    turn.killedAt = at;
    turn.end = Math.max(turn.end, at);
  }
  return turns.sort((a, b) => a.start - b.start);
}

/** Every pair of turns in which two processes relied on the lock at the same time. */
export function overlapsOf(turns) {
  const overlaps = [];
  const ordered = [...turns].sort((a, b) => a.start - b.start);
  for (const [index, first] of ordered.entries()) {
    for (const second of ordered.slice(index + 1)) {
      if (second.start >= first.end) continue;
      overlaps.push({ first, second, milliseconds: Math.min(first.end, second.end) - second.start });
    }
  }
  return overlaps;
}

/** What is wrong with the shared file, as sentences: each turn must find what the turn before it left. */
export function corruptionsOf(turns, counter) {
  const wrong = turns.flatMap((turn) => turn.complaints);
  let possible = [0];
  for (const turn of turns) {
    if (turn.read !== undefined && !possible.includes(turn.read)) {
      wrong.push(`worker ${turn.worker} read ${turn.read}, where ${possible.join(" or ")} had been left`);
    }
    if (turn.wrote !== undefined) possible = [turn.wrote];
    // A process that was killed in its turn may or may not have written.
    else if (turn.read !== undefined) possible = [turn.read, turn.read + 1];
  }
  if (!possible.includes(counter))
    wrong.push(`the counter is ${counter}, and should be ${possible.join(" or ")}`);
  return wrong;
}

/** For each killed holder, the next holder, and how many milliseconds after the kill it came. */
export function takeoversOf(turns) {
  return turns
    .filter((turn) => turn.ended === "killed")
    .map((killed) => {
      const next = turns.find((turn) => turn.start > killed.killedAt);
      return { killed, next, milliseconds: next === undefined ? undefined : next.start - killed.killedAt };
    });
}
