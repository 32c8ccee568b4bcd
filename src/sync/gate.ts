import { createHash } from "node:crypto";
import type pg from "pg";
import { z } from "zod";
import type { Pause } from "../../tasks/connectors/connector.ts";

const paused = z.tuple([z.object({ milliseconds: z.coerce.number().nullable() })]);

/** By which name a limit is known to all workers: see `Connector.appSecret`. */
export const limitKey =
  (tenantId: string, appSecret: string | undefined) =>
  (scope: string): string =>
    scope.startsWith("app:") && appSecret !== undefined
      ? `${scope}:${createHash("sha256").update(appSecret).digest("hex").slice(0, 16)}`
      : `${tenantId}:${scope}`;

export type Gate = ReturnType<typeof makeGate>;

/**
 * A run's way to its provider: counts calls, and makes none while the provider, or another worker that heard it from the
 * provider, says to wait.
 */
export function makeGate(
  pool: pg.Pool,
  fetch: typeof globalThis.fetch,
  { provider, scopes, keyOf }: { provider: string; scopes: string[]; keyOf: (scope: string) => string },
) {
  let calls = 0;
  let refusedMs: number | undefined;
  const pauseMs = async () => {
    const { rows } = await pool.query("select app_hidden.provider_pause($1, $2) as milliseconds", [
      provider,
      scopes.map(keyOf),
    ]);
    return paused.parse(rows)[0].milliseconds ?? undefined;
  };
  const gatedFetch: typeof globalThis.fetch = async (input, init) => {
    refusedMs = await pauseMs();
    if (refusedMs !== undefined) throw new Error("The provider asked for patience.");
    calls++;
    return fetch(input, { ...init, redirect: "error" });
  };
  return {
    fetch: gatedFetch,
    pauseMs,
    /** How long the call that was refused has to wait: connectors wrap the error of a call that fails. */
    refusedMs: () => refusedMs,
    /** How many calls were made since it was last asked. */
    takeCalls() {
      const taken = calls;
      calls = 0;
      return taken;
    },
    /** Nobody calls for so long, of those who share the scope: all of ours, where the connector did not say which. */
    async pause({ scope, milliseconds, reason }: Omit<Pause, "scope"> & { scope?: string | undefined }) {
      const within = scope !== undefined && scopes.includes(scope) ? [scope] : scopes;
      await pool.query("select app_hidden.pause_provider($1, $2, $3, $4)", [
        provider,
        within.map(keyOf),
        Math.ceil(milliseconds),
        reason,
      ]);
    },
  };
}
