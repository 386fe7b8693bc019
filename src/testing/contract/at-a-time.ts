/** Runs at most `places` functions at a time, in order. Returns a promise for each; none of their rejections is unhandled. */
export function atATime<T>(places: number, work: ReadonlyArray<() => Promise<T>>): ReadonlyArray<Promise<T>> {
  let free = places;
  const waiting: Array<() => void> = [];
  const inTurn = async (run: () => Promise<T>): Promise<T> => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await run();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    }
  };
  const outcomes = work.map(inTurn);
  for (const outcome of outcomes) outcome.catch(() => {});
  return outcomes;
}
