import { createColors } from "picocolors";

/** Colours for a stream that is a terminal with colours, unless `NO_COLOR` is set; otherwise none. */
export function colorsFor(stream: { readonly isTTY?: boolean }): ReturnType<typeof createColors> {
  const { NO_COLOR, TERM } = process.env;
  return createColors(Boolean(stream.isTTY) && TERM !== "dumb" && !NO_COLOR);
}
