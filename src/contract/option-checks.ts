// The checks of an options object, field by field.

/** What is wrong with an option, and where it is in the options object. */
export interface Fault {
  readonly path: string;
  readonly got: unknown;
  readonly wants: string;
}

/** Checks one value. @returns `undefined` if it fits */
export type Check = (value: unknown, path: string) => Fault | undefined;

export const is =
  (wants: string, fits: (value: unknown) => boolean): Check =>
  (got, path) =>
    fits(got) ? undefined : { path, got, wants };

export const trueOrFalse = is("true or false", (value) => typeof value === "boolean");

export const oneOf = (...choices: readonly string[]) =>
  is(choices.map((choice) => JSON.stringify(choice)).join(" or "), (value) =>
    choices.includes(value as string),
  );

export const having = (methods: readonly string[], wants: string) =>
  is(wants, (value) => isObject(value) && methods.every((method) => typeof value[method] === "function"));

export const optional =
  (check: Check): Check =>
  (value, path) =>
    value === undefined ? undefined : check(value, path);

/** Checks that a value is an object with these fields and no others. */
export const exactly =
  (wants: string, fields: Readonly<Record<string, Check>>): Check =>
  (got, path) => {
    if (!isObject(got)) return { path, got, wants };
    const within = (field: string) => (path === "" ? field : `${path}.${field}`);
    for (const [field, check] of Object.entries(fields)) {
      const fault = check(got[field], within(field));
      if (fault !== undefined) return fault;
    }
    const unknown = Object.keys(got).find((field) => !Object.hasOwn(fields, field));
    if (unknown === undefined) return undefined;
    return { path: within(unknown), got: got[unknown], wants: "absent: there is no such option" };
  };

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Checks a pool by its shape, because an application may have several copies of the driver, and wrappers. */
export const poolCheck: Check = (got, path) => {
  const methods = ["connect", "on", "end"];
  if (
    !isObject(got) ||
    methods.some((method) => typeof got[method] !== "function") ||
    typeof got["totalCount"] !== "number" ||
    !isObject(got["options"])
  ) {
    return { path, got, wants: "a node-postgres Pool" };
  }
  // `max` often comes from the environment as a string, which the pool accepts.
  const { max } = got["options"];
  return typeof max === "number" ? undefined : { path: `${path}.options.max`, got: max, wants: "a number" };
};
