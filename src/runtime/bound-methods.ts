/** Binds methods to their object, so that they can be passed as functions. */
export function bindMethods<T extends object>(object: T, names: ReadonlyArray<keyof T>): void {
  for (const name of names) {
    const method = object[name];
    if (typeof method === "function") object[name] = method.bind(object);
  }
}
