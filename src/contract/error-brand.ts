/** The property that marks every error of this library, whichever copy of the library made it. */
export const brand: unique symbol = Symbol.for("pg-locker.error") as never;

/**
 * `value instanceof theClass`, but also true of an error that another copy of this library made, which is recognised by its code. An
 * application may load the library as an ES module while one of its dependencies loads it as CommonJS.
 */
export function isOfClass(theClass: object, base: object, value: unknown): boolean {
  if (Function.prototype[Symbol.hasInstance].call(theClass, value)) return true;
  if (typeof value !== "object" || value === null || !(brand in value)) return false;
  if (theClass === base) return true;
  // Each class has the code of its instances. A class that an application derived has no code of its own.
  const code = Object.getOwnPropertyDescriptor(theClass, "code")?.value as unknown;
  return code !== undefined && "code" in value && value.code === code;
}
