/** Something that settles a promise, once: see {@link settledBy}. */
export interface Settler<T> {
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
}

/** The functions that a {@link Settler} has until it gets its own. */
export const unset = (): void => {};

/**
 * Returns a promise that the settler settles, by the functions that this sets in it. `new Promise(…)` in its place would make one more
 * function for each promise, which counts where a promise is most of what a call costs.
 */
export function settledBy<T>(settler: Settler<T>): Promise<T> {
  setIn = settler as Settler<unknown>;
  return new Promise<T>(setFunctions);
}

let setIn: Settler<unknown>;

function setFunctions(resolve: (value: never) => void, reject: (error: unknown) => void): void {
  setIn.resolve = resolve as (value: unknown) => void;
  setIn.reject = reject;
}
