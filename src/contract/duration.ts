const millisecondsIn: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  // Both the micro sign and the Greek letter, as in Go.
  "\u00b5s": 1e-3,
  "\u03bcs": 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
};

const part = /(\d+\.?\d*|\.\d+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)/y;

/**
 * Reads a duration in Go's grammar (https://pkg.go.dev/time#ParseDuration): an optional sign, then one or more decimal
 * numbers, each with a unit (`ns`, `us`, `ms`, `s`, `m`, `h`); a bare `"0"` needs none. Every option of this package that is a
 * duration takes such a string.
 *
 * @returns milliseconds, possibly fractional, negative after a minus sign; `undefined` if the text doesn't follow the grammar
 */
export function parseDuration(text: string): number | undefined {
  const signed = /^[+-]/.test(text);
  const sign = text.startsWith("-") ? -1 : 1;
  if (text.slice(signed ? 1 : 0) === "0") return 0;
  let total = 0;
  let at = signed ? 1 : 0;
  if (at === text.length) return undefined;
  while (at < text.length) {
    part.lastIndex = at;
    const match = part.exec(text);
    if (match === null) return undefined;
    const [whole, amount = "", unit = ""] = match;
    total += Number(amount) * (millisecondsIn[unit] ?? Number.NaN);
    at += whole.length;
  }
  return sign * total;
}

/** Converts a duration as a caller wrote it to milliseconds, which may be negative or infinite; `undefined` if it is not a duration. */
export function milliseconds(duration: unknown): number | undefined {
  if (typeof duration === "number") return Number.isNaN(duration) ? undefined : duration;
  return typeof duration === "string" ? parseDuration(duration) : undefined;
}

/** Formats a duration as Go prints it: `1m30s`, `250ms`, `1.5s`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 0) return `-${formatDuration(-milliseconds)}`;
  const whole = round(milliseconds, 1e6);
  if (whole === 0) return "0s";
  if (whole < 1e-3) return `${round(whole * 1e6, 1)}ns`;
  if (whole < 1) return `${round(whole * 1e3, 1e3)}\u00b5s`;
  if (whole < 1_000) return `${whole}ms`;
  const hours = Math.floor(whole / 3_600_000);
  const minutes = Math.floor(whole / 60_000) % 60;
  const seconds = round((whole % 60_000) / 1_000, 1e9);
  const head = hours > 0 ? `${hours}h${minutes}m` : minutes > 0 ? `${minutes}m` : "";
  return `${head}${seconds}s`;
}

/** Rounds to the nanosecond, which removes the noise of binary fractions. */
function round(value: number, perUnit: number): number {
  return Math.round(value * perUnit) / perUnit;
}
