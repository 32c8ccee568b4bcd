import type pg from "pg";
import type { KeyRing } from "../../src/crypto/keyRing.ts";
import { testKeyRing } from "./api.ts";
import { setCredentials } from "./credentials.ts";
import { echoSignature } from "./echo.ts";
import { createTenant, type TestTenant } from "./tenants.ts";

/** What providers are told, whatever the server is really called. */
export const PUBLIC_URL = "https://hooks.erp.example";
export const SECRET = "echo-secret-canary";
export const VERIFY_TOKEN = "echo-verify-token-canary";
export const webhookUrl = (integrationId: string) => `${PUBLIC_URL}/v1/webhooks/${integrationId}`;

/** A tenant whose integration is of the provider "echo", with credentials. */
export async function createEcho(
  owner: pg.Pool,
  slug: string,
  ring: KeyRing = testKeyRing,
): Promise<TestTenant> {
  const tenant = await createTenant(owner, slug, { events: [] });
  await owner.query("update integrations set provider = 'echo' where id = $1", [tenant.integrationId]);
  const credentials = { secret: SECRET, verifyToken: VERIFY_TOKEN };
  await setCredentials(
    owner,
    ring,
    { tenantId: tenant.id, integrationId: tenant.integrationId },
    credentials,
  );
  return tenant;
}

type Sending = { secret?: string; signedUrl?: string; signed?: string; headers?: Record<string, string> };

/** Sends a delivery, signed unless it says otherwise. */
export async function deliver(
  api: { url: string },
  integrationId: string,
  body: object | string,
  options: Sending = {},
) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const { secret = SECRET, signedUrl = webhookUrl(integrationId), signed = text } = options;
  const started = performance.now();
  const response = await fetch(`${api.url}/v1/webhooks/${integrationId}`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "x-echo-signature": echoSignature(secret, signedUrl, signed),
      ...options.headers,
    },
    body: text,
  });
  const answer = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    text: answer,
    milliseconds: performance.now() - started,
    // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
    problem: (answer ? JSON.parse(answer) : {}) as any,
  };
}
