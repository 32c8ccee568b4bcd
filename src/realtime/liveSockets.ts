import { CloseCode } from "graphql-ws";
import pLimit from "p-limit";
import type pg from "pg";
import type { Logger } from "pino";
import type { WebSocket } from "ws";
import { type Identity, withRequest } from "../auth/requests.ts";
import { explain } from "../graphql/errors.ts";
import type { Notifications } from "./notifications.ts";

type Connected = {
  identity: Identity;
  session: string;
  tenants: string[];
  expiry: NodeJS.Timeout | undefined;
};
const CONCURRENCY = 4;
/** What whoever is refused does next: 4401 signs in, 4403 refreshes the session and connects again. */
const codeOf = (reason: unknown) => (reason === "stale" ? CloseCode.Forbidden : CloseCode.Unauthorized);

/** Sockets whose right to be there is looked at again: when something about it has changed, and every minute. */
export function makeLiveSockets(options: {
  pool: pg.Pool;
  notifications: Notifications;
  limits: { socketsPerSession: number; recheckMs: number };
  log: Logger;
}) {
  const { pool, notifications, limits, log } = options;
  const sockets = new Map<WebSocket, Connected>();
  const inTurn = pLimit(CONCURRENCY);
  let hearing: Promise<() => void> | undefined;
  let closed = false;

  /** The live check, as each request has it. A database that cannot be asked refuses nobody. */
  async function whyNot(identity: Identity): Promise<string | undefined> {
    try {
      await withRequest(pool, identity, async () => {});
      return undefined;
    } catch (error) {
      const explained = explain(error);
      if (explained?.code === "UNAUTHENTICATED") return String(explained.extensions.reason ?? "revoked");
      log.warn({ err: error }, "cannot check the right to a websocket");
      return undefined;
    }
  }
  async function check(session: string) {
    const same = [...sockets].filter(([, connected]) => connected.session === session);
    const [, first] = same[0] ?? [];
    const reason = first && (await whyNot(first.identity));
    if (reason) for (const [socket] of same) socket.close(codeOf(reason), reason);
  }
  const recheck = (tenantId?: string) => {
    const concerned = [...sockets.values()].filter(
      ({ tenants }) => tenantId === undefined || tenants.includes(tenantId),
    );
    for (const session of new Set(concerned.map((connected) => connected.session)))
      void inTurn(() => check(session));
  };
  const timer = setInterval(() => recheck(), limits.recheckMs).unref();

  return {
    /** Whether it may stay. Its socket was closed with a reason if not. */
    async admit(socket: WebSocket, identity: Identity, expiresAt: Date | undefined): Promise<boolean> {
      const { claims } = identity;
      if (!claims) return false;
      const session = "sub" in claims ? `${claims.sid} ${claims.role} ${claims.tenant_id}` : claims.key_id;
      // Heard before the check: what changes meanwhile is not missed.
      hearing ??= notifications.listen("access_changed", recheck).catch((error: unknown) => {
        hearing = undefined;
        throw error;
      });
      await hearing;
      const others = [...sockets.values()].filter((connected) => connected.session === session);
      if (others.length >= limits.socketsPerSession) {
        socket.close(CloseCode.TooManyInitialisationRequests, "too_many_sockets");
        return false;
      }
      const expiry = expiresAt
        ? setTimeout(() => socket.close(CloseCode.Forbidden, "expired"), expiresAt.getTime() - Date.now())
        : undefined;
      const home = "home_tenant_id" in claims ? claims.home_tenant_id : undefined;
      const tenants = [claims.tenant_id, ...(home ? [home] : [])];
      if (socket.readyState !== socket.OPEN || closed) {
        clearTimeout(expiry);
        return false;
      }
      sockets.set(socket, { identity, session, tenants, expiry });
      socket.once("close", () => {
        clearTimeout(expiry);
        sockets.delete(socket);
      });
      const reason = await whyNot(identity);
      if (reason) socket.close(codeOf(reason), reason);
      return reason === undefined;
    },
    close() {
      closed = true;
      clearInterval(timer);
    },
  };
}
