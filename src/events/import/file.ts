import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "../../config.ts";
import type { Encoding, Place } from "./records.ts";

export type ImportFile = {
  path: string;
  handle: FileHandle;
  size: number;
  encoding: Encoding;
  /** Behind the byte order mark, if there is one. */
  start: Place;
  /** Throws when somebody wrote into the file since it was opened. */
  assertUnchanged(): Promise<void>;
};

export async function openImportFile(path: string, encoding: Encoding): Promise<ImportFile> {
  const unreadable = (error: unknown): never => {
    throw new UserError(`Cannot read ${path}: ${error instanceof Error ? error.message : error}.`);
  };
  const handle = await open(path).catch(unreadable);
  try {
    const stat = await handle.stat();
    const { size, mtimeMs } = stat;
    if (!stat.isFile()) throw new UserError(`${path} is not a file.`);
    const head = Buffer.alloc(3);
    const { bytesRead } = await handle.read(head, 0, 3, 0).catch(unreadable);
    const start = { offset: markLength(head.subarray(0, bytesRead), encoding), line: 1 };
    return {
      path,
      handle,
      size,
      encoding,
      start,
      async assertUnchanged() {
        const now = await handle.stat();
        if (now.size !== size || now.mtimeMs !== mtimeMs)
          throw new UserError(`${path} was changed while it was read. Import it when it is finished.`);
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function markLength(head: Buffer, encoding: Encoding): number {
  const mark = byteOrderMark(head);
  if (!mark) return 0;
  if (mark.encoding === encoding) return mark.length;
  throw new UserError(
    mark.encoding === "utf8"
      ? "The file says that it is UTF-8, by its byte order mark: leave out --encoding."
      : "The file says that it is UTF-16, by its byte order mark: add --encoding utf16le.",
  );
}

/** What the first bytes of a file say of its encoding. */
export function byteOrderMark(head: Buffer): { encoding: Encoding; length: number } | undefined {
  const [first, second, third] = head;
  if (first === 0xef && second === 0xbb && third === 0xbf) return { encoding: "utf8", length: 3 };
  if (first === 0xff && second === 0xfe) return { encoding: "utf16le", length: 2 };
  return undefined;
}

const CHUNK = 4 * 1024 * 1024;

/** Two imports are of the same file when every byte is the same, and read in the same way. */
export async function fingerprint(
  { handle, size }: ImportFile,
  reading: unknown,
  { signal, onRead }: { signal: AbortSignal; onRead: (bytes: number) => void },
): Promise<Buffer> {
  const hash = createHash("sha256").update(JSON.stringify({ reading, size }));
  const buffer = Buffer.alloc(Math.min(CHUNK, size));
  for (let at = 0; at < size; ) {
    signal.throwIfAborted();
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
    onRead(at);
  }
  return hash.digest();
}
