/** A function that takes what `F` takes, and promises what `F` returns: see `locker.wrapWithLock`. */
export type UnderLock<F extends (this: never, ...args: never[]) => unknown> = (
  this: ThisParameterType<F>,
  ...args: Parameters<F>
) => Promise<Awaited<ReturnType<F>>>;
