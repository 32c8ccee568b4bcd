import { once } from "node:events";
import { createServer } from "node:net";
import { UserError } from "../config.ts";
import { errorCode } from "./dataDir.ts";

/** The first port from `first` on (to `last`) that nobody listens on; for 0, one that the system chooses. */
export async function freePort(first: number, last: number): Promise<number> {
  for (let port = first; port <= Math.min(last, 65_535); port++) {
    const found = await tryPort(port);
    if (found) return found;
  }
  throw new UserError(
    `Every port from ${first} to ${last} is taken: set EMBEDDED_PG_PORT=... to a free one.`,
  );
}

async function tryPort(port: number): Promise<number | undefined> {
  const server = createServer().listen({ port, host: "127.0.0.1", exclusive: true });
  try {
    await once(server, "listening");
  } catch (error) {
    // EACCES: a privileged port.
    if (["EADDRINUSE", "EACCES"].includes(errorCode(error) ?? "")) return undefined;
    throw error;
  }
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" ? address?.port : undefined;
}
