import { addAbortSignal } from "node:stream";
import { UserError } from "../../src/config.ts";

/** A password of stdin, which may stay open after it. */
export async function firstLine(signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of addAbortSignal(signal, process.stdin)) {
    chunks.push(chunk);
    if (chunk.includes("\n")) break;
  }
  let input: string;
  try {
    input = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new UserError("The password on stdin is not UTF-8.");
  }
  const [line = ""] = input.split(/\r?\n/);
  if (!line) throw new UserError("stdin has no password in its first line.");
  return line;
}
