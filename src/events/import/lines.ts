import { isUtf8 } from "node:buffer";
import { type Encoding, headOf, type Line, MAX_LINE_BYTES, type Place, type Problem } from "./records.ts";

/** What bytes are read from, as from a FileHandle: fewer than `length` may come, and none at the end. */
export type ByteSource = {
  read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
};

/**
 * The lines from a place to `size`, as many at a time as a read brings. Each of these iterables must be emptied before
 * the next is asked for: all of them read one buffer. Of a line that is too long, only its head is kept.
 */
export async function* readLines(
  { handle, size, encoding }: { handle: ByteSource; size: number; encoding: Encoding },
  from: Place,
): AsyncGenerator<Iterable<Line>> {
  const { unit, find, decode } = decoders[encoding];
  const buffer = Buffer.alloc(2 * MAX_LINE_BYTES);
  let { offset, line } = from;
  // Of the line under way: the bytes in the buffer, and how many were dropped from it.
  let kept = 0;
  let dropped = 0;
  let head = "";

  function take(bytes: Buffer, length: number): Line {
    const isLong = dropped > 0 || bytes.length > MAX_LINE_BYTES;
    if (isLong && dropped === 0) head = headOf(decode(bytes).text);
    offset += dropped + length;
    dropped = 0;
    const place = { line: line++, end: { offset, line } };
    if (isLong) return { ...place, text: head, problem: TOO_LONG };
    const { text, isSound } = decode(bytes);
    return isSound ? { ...place, text } : { ...place, text, problem: misread(encoding) };
  }

  function* split(bytes: Buffer, isLast: boolean): Generator<Line> {
    let start = 0;
    for (let stop = find(bytes, start); stop >= 0; stop = find(bytes, start)) {
      const next = stop + unit;
      yield take(bytes.subarray(start, stop), next - start);
      start = next;
    }
    if (isLast && (start < bytes.length || dropped > 0)) {
      yield take(bytes.subarray(start), bytes.length - start);
      start = bytes.length;
    } else if (bytes.length - start > MAX_LINE_BYTES) {
      if (dropped === 0) head = headOf(decode(bytes.subarray(start)).text);
      const drop = bytes.length - start - ((bytes.length - start) % unit);
      dropped += drop;
      start += drop;
    }
    kept = bytes.copy(buffer, 0, start);
  }

  for (let isLast = false; !isLast; ) {
    const at = offset + dropped + kept;
    const wanted = Math.min(buffer.length - kept, size - at);
    const { bytesRead } = await handle.read(buffer, kept, wanted, at);
    isLast = bytesRead === 0;
    yield split(buffer.subarray(0, kept + bytesRead), isLast);
  }
}

const TOO_LONG: Problem = {
  reason: "too_large",
  pointer: "",
  detail: `A line has at most ${MAX_LINE_BYTES.toLocaleString("en")} bytes.`,
};
const misread = (encoding: Encoding): Problem => ({
  reason: `not_${encoding}`,
  pointer: "",
  detail: `This is not ${encoding === "utf8" ? "UTF-8; --encoding names another encoding" : encoding}.`,
});

type Decoder = {
  /** Bytes of a newline. */
  unit: number;
  find(bytes: Buffer, from: number): number;
  decode(bytes: Buffer): { text: string; isSound: boolean };
};
/** What Windows calls so: latin1 with the euro sign. Every byte is a character. */
const windows1252 = new TextDecoder("windows-1252");
const decoders: Record<Encoding, Decoder> = {
  utf8: {
    unit: 1,
    find: (bytes, from) => bytes.indexOf(0x0a, from),
    decode: (bytes) => ({ text: bytes.toString("utf8"), isSound: isUtf8(bytes) }),
  },
  latin1: {
    unit: 1,
    find: (bytes, from) => bytes.indexOf(0x0a, from),
    decode: (bytes) => ({ text: windows1252.decode(bytes), isSound: true }),
  },
  utf16le: {
    unit: 2,
    // Searches at even places only.
    find: (bytes, from) => bytes.indexOf("\n", from, "utf16le"),
    decode(bytes) {
      const text = bytes.toString("utf16le");
      return { text, isSound: bytes.length % 2 === 0 && text.isWellFormed() };
    },
  },
};
