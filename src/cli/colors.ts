import { createColors } from "picocolors";

/** Colours for a stream that is a terminal, unless `NO_COLOR` is set; else none. */
export function colorsFor(stream: { readonly isTTY?: boolean }): ReturnType<typeof createColors> {
  return createColors(Boolean(stream.isTTY) && !process.env["NO_COLOR"]);
}
