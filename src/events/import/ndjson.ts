import { createReadStream } from "node:fs";
import { parseJson } from "../text.ts";
import { type FileRecord, MAX_RECORD_BYTES, type Place } from "./records.ts";

const NEWLINE = 0x0a;

/** An event to a line. Empty lines count for nothing. */
export async function* readNdjsonFile(path: string, from: Place): AsyncGenerator<FileRecord> {
  let { offset, line } = from;
  let rest: Buffer = Buffer.alloc(0);
  let skipping = false;
  const record = (bytes: Buffer, start: number): FileRecord | undefined => {
    if (bytes.length > MAX_RECORD_BYTES) return tooLong(line++, start);
    const text = bytes.toString("utf8");
    const place = { line, end: { offset: start, line: line + 1 }, text };
    line++;
    if (text.trim() === "") return undefined;
    const problem = (reason: string, detail: string) => ({
      ...place,
      problem: { reason, pointer: "", detail },
    });
    if (text.includes("\uFFFD") && !Buffer.from(text).equals(bytes))
      return problem("not_utf8", "This line is not UTF-8.");
    try {
      return { ...place, event: parseJson(text).value };
    } catch (error) {
      return problem("not_json", `This line is not JSON: ${error instanceof Error ? error.message : error}.`);
    }
  };
  for await (const chunk of createReadStream(path, { start: offset, highWaterMark: 256 * 1024 })) {
    let bytes: Buffer = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE)) {
      offset += end + 1;
      if (skipping) {
        skipping = false;
        yield tooLong(line++, offset);
      } else {
        const found = record(bytes.subarray(0, end), offset);
        if (found) yield found;
      }
      bytes = bytes.subarray(end + 1);
    }
    if (bytes.length > MAX_RECORD_BYTES || skipping) {
      offset += bytes.length;
      bytes = Buffer.alloc(0);
      skipping = true;
    }
    rest = bytes;
  }
  if (skipping) yield tooLong(line, offset);
  else if (rest.length > 0) {
    const found = record(rest, offset + rest.length);
    if (found) yield found;
  }
}

const tooLong = (line: number, offset: number): FileRecord => ({
  line,
  end: { offset, line: line + 1 },
  text: "",
  problem: {
    reason: "too_large",
    pointer: "",
    detail: `A line has at most ${MAX_RECORD_BYTES.toLocaleString("en")} bytes.`,
  },
});
