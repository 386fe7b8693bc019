import { createColors } from "picocolors";
import { own } from "./plain.ts";

const names = ["bold", "green", "red", "yellow"] as const;

export type Colors = Readonly<Record<(typeof names)[number], (text: string) => string>>;

/** Colours for a stream that is a terminal with colours, unless `NO_COLOR` is set; otherwise none. They pass through `shown`. */
export function colorsFor(stream: { readonly isTTY?: boolean }): Colors {
  const { NO_COLOR, TERM } = process.env;
  const colors = createColors(Boolean(stream.isTTY) && TERM !== "dumb" && !NO_COLOR);
  const paints = names.map((name) => {
    const [begin = "", end = ""] = colors[name](" ").split(" ").map(own);
    return [name, (text: string) => `${begin}${text}${end}`] as const;
  });
  return Object.fromEntries(paints) as unknown as Colors;
}
