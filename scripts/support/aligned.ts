/** Rows as lines, each column as wide as its widest cell; numbers stand to the right. */
export function aligned(rows: readonly (readonly string[])[], indent = ""): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    });
  const pad = (cell: string, column: number) => {
    const width = widths[column] ?? 0;
    return /^[\d,.]+$/.test(cell) ? cell.padStart(width) : cell.padEnd(width);
  };
  return rows.map((row) => `${indent}${row.map(pad).join("  ")}`.trimEnd()).join("\n");
}
