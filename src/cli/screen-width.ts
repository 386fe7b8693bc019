/** How many columns standard output has; infinite if it isn't a terminal, or is one that doesn't tell. */
export function screenWidth(): number {
  const { columns, isTTY } = process.stdout;
  return isTTY && columns > 0 ? columns : Number.POSITIVE_INFINITY;
}

/** Breaks a text at its spaces, so that it fits the screen after `indent` columns; the lines after the first are indented. */
export function wrapped(text: string, indent: number, width = screenWidth()): string {
  const room = Math.max(20, width - indent);
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > room) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].join(`\n${" ".repeat(indent)}`);
}
