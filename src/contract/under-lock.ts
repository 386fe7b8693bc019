/** A function with the parameters of `F` that returns a promise of the result of `F`: see `locker.wrapWithLock`. */
export type UnderLock<F extends (this: never, ...args: never[]) => unknown> = (
  this: ThisParameterType<F>,
  ...args: Parameters<F>
) => Promise<Awaited<ReturnType<F>>>;
