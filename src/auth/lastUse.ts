import type pg from "pg";
import type { Logger } from "pino";
import type { KeyClaims } from "./apiKeys.ts";
import type { Claims } from "./tokens.ts";

const INTERVAL_MS = 60_000;

/** Remembers when sessions and API keys were last used, and writes it once a minute: requests themselves write nothing. */
export type LastUse = {
  note(claims: Claims | KeyClaims): void;
  /** Writes what is waiting. */
  flush(): Promise<void>;
  /** Stops the clock, and writes what is waiting. */
  close(): Promise<void>;
};

export function makeLastUse(pool: pg.Pool, log: Logger): LastUse {
  let waiting = new Map<string, object>();
  const flush = async () => {
    if (waiting.size === 0) return;
    const uses = [...waiting.values()];
    waiting = new Map();
    // What cannot be written is forgotten: the next use is soon.
    await pool
      .query("select app_hidden.record_use($1)", [JSON.stringify(uses)])
      .catch((error: Error) => log.warn({ err: error }, "could not record when sessions were last used"));
  };
  const timer = setInterval(() => void flush(), INTERVAL_MS).unref();
  return {
    note(claims) {
      const at = new Date();
      if ("sid" in claims)
        waiting.set(claims.sid, {
          tenant_id: claims.home_tenant_id ?? claims.tenant_id,
          session_id: claims.sid,
          at,
        });
      else waiting.set(claims.key_id, { tenant_id: claims.tenant_id, api_key_id: claims.key_id, at });
    },
    flush,
    async close() {
      clearInterval(timer);
      await flush();
    },
  };
}
