import { parseJson } from "../text.ts";
import type { FileRecord, RecordReader } from "./records.ts";

/** An event to a line. Empty lines count for nothing. */
export const ndjsonReader: RecordReader = {
  *add({ line, end, text, problem }): Generator<FileRecord> {
    const place = { line, end, text };
    if (problem) yield { ...place, problem };
    else if (text.trim() !== "") yield { ...place, ...parsed(text) };
  },
  finish: () => [],
};

function parsed(text: string) {
  try {
    return { event: parseJson(text).value };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return {
      problem: { reason: "not_json", pointer: "", detail: `This line is not JSON: ${why.slice(0, 200)}.` },
    };
  }
}
