import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";

export type UpgradeRefusal = { status: string; message: string };

/** Why a request may not become a websocket; undefined where it may. */
export function whyNotUpgrade(
  { url, headers }: Pick<IncomingMessage, "url" | "headers">,
  { origins, full }: { origins: readonly string[]; full: boolean },
): UpgradeRefusal | undefined {
  if (url?.split("?")[0] !== "/graphql")
    return { status: "404 Not Found", message: "Websockets are at /graphql." };
  const { origin, host } = headers;
  // Only browsers send it: to others, a token is all there is to check.
  if (origin !== undefined && !origins.includes(origin) && !isOwn(origin, host))
    return { status: "403 Forbidden", message: "CORS_ORIGINS does not list this origin." };
  if (full)
    return { status: "503 Service Unavailable", message: "There are too many sockets. Try again later." };
  return undefined;
}

/** Our own page, such as the explorer. */
const isOwn = (origin: string, host: string | undefined) =>
  URL.canParse(origin) && host !== undefined && new URL(origin).host === host.toLowerCase();

export function refuseUpgrade(socket: Duplex, { status, message }: UpgradeRefusal): void {
  const headers = [
    `HTTP/1.1 ${status}`,
    "connection: close",
    "content-type: text/plain; charset=utf-8",
    `content-length: ${Buffer.byteLength(message)}`,
  ];
  socket.end(`${headers.join("\r\n")}\r\n\r\n${message}`);
}
