/** Runs so many at a time, in their order. Resolves with the outcomes in the same order, and never rejects. */
export async function atATime<T>(
  places: number,
  work: ReadonlyArray<() => Promise<T>>,
): Promise<ReadonlyArray<PromiseSettledResult<T>>> {
  const outcomes: PromiseSettledResult<T>[] = [];
  const left = [...work.entries()];
  const goOn = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [place, run] = next;
      const [outcome] = await Promise.allSettled([run()]);
      outcomes[place] = outcome;
    }
  };
  await Promise.all(Array.from({ length: places }, goOn));
  return outcomes;
}
