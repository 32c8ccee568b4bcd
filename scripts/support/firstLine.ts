import { addAbortSignal } from "node:stream";
import { UserError } from "../../src/config.ts";

/** What stdin has in its first line, such as a password; it may stay open after it. */
export async function firstLine(signal: AbortSignal, what = "password"): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of addAbortSignal(signal, process.stdin)) {
    chunks.push(chunk);
    if (chunk.includes("\n")) break;
  }
  let input: string;
  try {
    input = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new UserError(`The ${what} on stdin is not UTF-8.`);
  }
  const [line = ""] = input.split(/\r?\n/);
  if (!line) throw new UserError(`stdin has no ${what} in its first line.`);
  return line;
}
