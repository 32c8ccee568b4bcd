import { headOf, type Line, MAX_EVENT_BYTES, type Place, type Problem } from "./records.ts";

export type Row = { line: number; end: Place; text: string } & ({ cells: string[] } | { problem: Problem });

/**
 * Puts lines together to rows of cells (RFC 4180). A row that cannot be one is refused with its first line alone, and
 * the lines behind that are read anew: a quote that nobody closed must not swallow them. Empty lines are no rows.
 */
export class Rows {
  readonly #delimiter: string;
  readonly #width: number | undefined;
  /** Of the row under way. */
  #lines: Line[] = [];
  #cells: Cells;

  constructor(delimiter: string, width?: number) {
    this.#delimiter = delimiter;
    this.#width = width;
    this.#cells = new Cells(delimiter);
  }

  *add(line: Line): Generator<Row> {
    const coming = [line];
    for (let next = coming.pop(); next; next = coming.pop()) {
      const taken = this.#take(next);
      if (!taken) continue;
      yield taken.row;
      for (const again of taken.again.reverse()) coming.push(again);
    }
  }

  /** At the end of the file: what is still open stays so. */
  *finish(): Generator<Row> {
    while (this.#lines.length > 0) {
      const { row, again } = this.#refuse(NOT_CLOSED);
      yield row;
      for (const line of again) yield* this.add(line);
    }
  }

  #take(line: Line): Taken | undefined {
    if (this.#lines.length === 0 && !line.problem && /^\r?$/.test(line.text)) return undefined;
    this.#lines.push(line);
    // Only the head of a line that is too long is there.
    if (line.problem?.reason === "too_large") return this.#refuse(NOT_CLOSED);
    const state = this.#cells.add(line.text);
    if (state === "stray") return this.#refuse(STRAY);
    if (state === "whole") return this.#end();
    const bytes = line.end.offset - (this.#lines[0]?.end.offset ?? 0);
    return bytes > MAX_EVENT_BYTES ? this.#refuse(NOT_CLOSED) : undefined;
  }

  #end(): Taken {
    const cells = this.#cells.done;
    const [first, ...others] = this.#lines;
    if (!first) throw new Error("A row has a line.");
    const problem = this.#lines.find((line) => line.problem)?.problem ?? this.#miscounted(cells.length);
    // A line that is a row by itself was not meant to be within a quote.
    if (problem?.reason === "not_csv" && others.some((line) => this.#isRow(line.text)))
      return this.#refuse(problem);
    const end = others.at(-1)?.end ?? first.end;
    const text = this.#lines.map((line) => line.text).join("\n");
    this.#clear();
    const row = { line: first.line, end, text };
    return { row: problem ? { ...row, text: headOf(text), problem } : { ...row, cells }, again: [] };
  }

  #refuse(problem: Problem): Taken {
    const [first, ...again] = this.#lines;
    if (!first) throw new Error("A row has a line.");
    this.#clear();
    const { line, end } = first;
    return { row: { line, end, text: headOf(first.text), problem: first.problem ?? problem }, again };
  }

  #miscounted(count: number): Problem | undefined {
    if (this.#width === undefined || count === this.#width) return undefined;
    return notCsv(`This record has ${count} cells, and the header ${this.#width}.`);
  }

  #isRow(text: string): boolean {
    const cells = new Cells(this.#delimiter);
    return cells.add(text) === "whole" && cells.done.length === this.#width && !cells.hasBareQuote;
  }

  #clear() {
    this.#lines = [];
    this.#cells = new Cells(this.#delimiter);
  }
}

/** `again`: lines that are to be read anew. */
type Taken = { row: Row; again: Line[] };

const notCsv = (detail: string): Problem => ({ reason: "not_csv", pointer: "", detail });
const NOT_CLOSED = notCsv(
  `A quote in this line is not closed within ${MAX_EVENT_BYTES.toLocaleString("en")} bytes, or before the file ends.`,
);
const STRAY = notCsv(
  "A quote that opens in this line is closed before something else than a delimiter or the end of a line. Within quotes, a quote is written twice.",
);

class Cells {
  readonly done: string[] = [];
  /** Within an unquoted cell. */
  hasBareQuote = false;
  readonly #delimiter: string;
  /** The quoted cell under way. */
  #quoted: string | undefined;

  constructor(delimiter: string) {
    this.#delimiter = delimiter;
  }

  /** "open": a quote is, and the row goes on in the next line. A quote within an unquoted cell is one. */
  add(text: string): "whole" | "open" | "stray" {
    const end = text.endsWith("\r") ? text.length - 1 : text.length;
    for (let at = 0; ; at++) {
      if (this.#quoted === undefined && text[at] === '"') {
        this.#quoted = "";
        at++;
      }
      if (this.#quoted === undefined) {
        const stop = text.indexOf(this.#delimiter, at);
        const next = stop < 0 ? end : stop;
        const cell = text.slice(at, next);
        this.hasBareQuote ||= cell.includes('"');
        this.done.push(cell);
        at = next;
      } else {
        const closed = this.#unquote(text, at);
        if (closed === undefined) return "open";
        at = closed;
        if (at < end && text[at] !== this.#delimiter) return "stray";
      }
      if (at >= end) return "whole";
    }
  }

  /** Reads on to behind the closing quote. */
  #unquote(text: string, from: number): number | undefined {
    for (let at = from; ; at++) {
      const quote = text.indexOf('"', at);
      if (quote < 0) {
        this.#quoted += `${text.slice(at)}\n`;
        return undefined;
      }
      this.#quoted += text.slice(at, quote);
      at = quote + 1;
      if (text[at] === '"') this.#quoted += '"';
      else {
        this.done.push(this.#quoted ?? "");
        this.#quoted = undefined;
        return at;
      }
    }
  }
}
