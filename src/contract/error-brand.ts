/** What each error of this library has, in whichever copy of the library it was made. */
export const brand: unique symbol = Symbol.for("pg-locker.error") as never;

/**
 * `value instanceof theClass`, but true of an error of another copy of this library as well, which is told by its code: an
 * application may have the library as an ES module, and one of its dependencies as CommonJS.
 */
export function isOfClass(theClass: object, base: object, value: unknown): boolean {
  if (Function.prototype[Symbol.hasInstance].call(theClass, value)) return true;
  if (typeof value !== "object" || value === null || !(brand in value)) return false;
  if (theClass === base) return true;
  // Each class has the code of its instances. One that an application derived has none of its own.
  const code = Object.getOwnPropertyDescriptor(theClass, "code")?.value as unknown;
  return code !== undefined && "code" in value && value.code === code;
}
