import { once } from "node:events";
import type { Response } from "express";

/** An answer that is written bit by bit, no faster than it is read. */
export type Stream = {
  /** Aborted when the client is gone, or has been cut off. */
  readonly signal: AbortSignal;
  write(text: string): Promise<void>;
  /** Ends the answer. */
  end(): void;
  /** Cuts the connection, so that the client cannot take what it has for the whole. */
  cut(lastWords: string): void;
};

export function openStream(
  response: Response,
  { stallMs, durationMs }: { stallMs: number; durationMs: number },
): Stream {
  const gone = new AbortController();
  const giveUp = (reason: string) => {
    response.log.warn({ reason }, "an export was cut off");
    response.destroy();
  };
  const deadline = setTimeout(() => giveUp("it took too long"), durationMs).unref();
  const close = () => {
    clearTimeout(deadline);
    gone.abort(new Error("The client is gone."));
  };
  response.on("close", close);
  // What is written between the end of the socket and `close`.
  response.on("error", () => {});
  if (response.socket?.destroyed) close();
  // Node counts what the kernel took of a long write, so slow readers are safe; and a database that takes its time is not their fault.
  response.on("timeout", () => {
    if (response.writableNeedDrain || response.writableEnded) giveUp("the client stopped reading");
  });
  return {
    signal: gone.signal,
    async write(text) {
      gone.signal.throwIfAborted();
      if (!response.headersSent) response.setTimeout(stallMs);
      if (text !== "" && !response.write(text)) await once(response, "drain", { signal: gone.signal });
    },
    end() {
      response.end();
    },
    cut(lastWords) {
      if (lastWords === "") response.destroy();
      else response.write(lastWords, () => response.destroy());
    },
  };
}
