import type { Connector } from "../../tasks/connectors/connector.ts";
import { type KeyRing, seal } from "../crypto/keyRing.ts";
import { CREDENTIALS, openCredentials } from "../crypto/sealed.ts";
import { misfit, SyncError } from "./failures.ts";
import type { Begun, Run } from "./run.ts";

type Place = { keyRing: KeyRing; tenantId: string };

/** The credentials of a run's integration; {} of a provider that needs none. */
export function readCredentials(place: Place, begun: Begun, connector: Connector): unknown {
  const { integration_id: integrationId, credentials: kept } = begun;
  if (kept === undefined && connector.needsCredentials !== false)
    throw new SyncError("needs_reauth", "The integration has no credentials. Set them first.");
  const opened = kept
    ? JSON.parse(openCredentials(place.keyRing, { tenantId: place.tenantId, integrationId }, kept))
    : {};
  const parsed = connector.credentials.safeParse(opened);
  if (parsed.success) return parsed.data;
  throw new SyncError("needs_reauth", `The credentials do not fit: ${misfit(parsed.error)}. Set others.`);
}

/** Seals and saves what a provider gave as the next version, before anybody uses it. False when others were set meanwhile. */
export async function saveRefreshed(
  { keyRing, tenantId }: Place,
  begun: Begun,
  run: Run,
  credentials: unknown,
): Promise<boolean> {
  const kept = begun.credentials;
  if (!kept) return false;
  const dataKey = keyRing.unwrap(kept.wrapped_key, kept.kek_id, { tenantId, version: kept.key_version });
  const next = {
    tenantId,
    table: CREDENTIALS,
    rowId: begun.integration_id,
    version: kept.version + 1,
  };
  return run.endRefresh(kept.version, kept.key_version, seal(JSON.stringify(credentials), dataKey, next));
}
