/** How many columns standard output has room for; without end if it is no terminal, or one that doesn't tell. */
export function screenWidth(): number {
  const { columns, isTTY } = process.stdout;
  return isTTY && columns > 0 ? columns : Number.POSITIVE_INFINITY;
}

/** Breaks a text at its blanks, so that it fits the screen behind `indent` columns; the other lines are indented. */
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
