import type { Server } from "node:http";
import { type Config, UserError } from "./config.ts";

/** Listens on HOST and PORT, or says in a sentence why that cannot be. */
export function listen(server: Server, { HOST, PORT }: Pick<Config, "HOST" | "PORT">): Promise<void> {
  return new Promise((listening, failed) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const reasons: Record<string, string> = {
        EADDRINUSE: `Port ${PORT} on ${HOST} is taken by another program. Set another, such as PORT=${PORT + 1}.`,
        EACCES: `Port ${PORT} is reserved for the superuser. Set one above 1023, such as PORT=4000.`,
        EADDRNOTAVAIL: `HOST ${HOST} is not an address of this machine.`,
        ENOTFOUND: `HOST ${HOST} is not an address of this machine.`,
      };
      failed(
        new UserError(reasons[error.code ?? ""] ?? `Cannot listen on ${HOST}:${PORT}: ${error.message}.`),
      );
    });
    server.listen(PORT, HOST, listening);
  });
}

/** Takes no more requests, and waits for those under way, as long as `patienceMs`; then it cuts them off. */
export function stopListening(server: Server, patienceMs: number): Promise<void> {
  return new Promise((stopped) => {
    const deadline = setTimeout(() => server.closeAllConnections(), patienceMs);
    server.close(() => {
      clearTimeout(deadline);
      stopped();
    });
  });
}
