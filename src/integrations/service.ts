import type pg from "pg";
import { z } from "zod";
import { type Connector, ProviderError } from "../../tasks/connectors/connector.ts";
import { providerUrl } from "../../tasks/connectors/index.ts";
import { claimsOf, type Identity, withRequest } from "../auth/requests.ts";
import { generateDataKey, type KeyRing, seal } from "../crypto/keyRing.ts";
import { CREDENTIALS, openCredentials, sealed } from "../crypto/sealed.ts";
import { ApiError } from "../graphql/errors.ts";
import { failureOf } from "../sync/failures.ts";
import { makeRedact } from "../sync/redact.ts";
import { describeProviders, type Provider } from "./catalogue.ts";
import { checkConfig, checkCredentials, connectorNamed } from "./check.ts";

/** Of the operation's transaction. */
export type Run = (query: { text: string; values: unknown[] }) => Promise<{ rows: readonly unknown[] }>;
export type ConnectionTest = {
  provider: string;
  config?: unknown;
  credentials?: unknown;
  integrationId?: string | null | undefined;
};
export type TestOutcome = {
  ok: boolean;
  account: string | null;
  errorClass: string | null;
  error: string | null;
};
export type IntegrationService = {
  providers(): Provider[];
  /** INVALID_INPUT unless the settings are what the provider's connector takes. */
  checkConfig(provider: string, config: unknown): void;
  /** Checks, seals and keeps. */
  setCredentials(run: Run, tenantId: string, integrationId: string, credentials: unknown): Promise<void>;
  /** Makes the provider's cheapest call; no transaction is open meanwhile. */
  test(identity: Identity, test: ConnectionTest): Promise<TestOutcome>;
};

const TEST_MS = 10_000;
const dataKey = z.object({ key_version: z.number(), kek_id: z.string(), wrapped_key: z.instanceof(Buffer) });
const place = z.object({
  provider: z.string(),
  version: z.number(),
  key_version: dataKey.shape.key_version.nullable(),
  kek_id: dataKey.shape.kek_id.nullable(),
  wrapped_key: dataKey.shape.wrapped_key.nullable(),
});
const stored = z.object({ provider: z.string() });

export function makeIntegrationService(options: {
  pool: pg.Pool;
  keyRing: Pick<KeyRing, "wrap" | "unwrap">;
  simulatorUrl: string | undefined;
  fetch: typeof globalThis.fetch;
  /** How long a test may take. */
  testMs?: number;
}): IntegrationService {
  const { pool, keyRing, simulatorUrl, testMs = TEST_MS } = options;

  /** The tenant's newest data key; its first is made here. */
  async function newestKey(run: Run, tenantId: string, found: z.output<typeof place>) {
    const first = dataKey.safeParse(found);
    if (first.success) return first.data;
    const { kekId, wrapped } = keyRing.wrap(generateDataKey(), { tenantId, version: 1 });
    const { rows } = await run({
      text: "select * from app_hidden.add_first_tenant_key($1, $2, $3)",
      values: [tenantId, kekId, wrapped],
    });
    return dataKey.parse(rows[0]);
  }

  /** What to test with, after the right to do so was checked and the attempt counted. */
  async function credentialsFor(identity: Identity, test: ConnectionTest, connector: Connector) {
    const { tenant_id: tenantId } = claimsOf(identity);
    const integrationId = test.integrationId ?? null;
    const { rows } = await withRequest(pool, identity, (client) =>
      client.query("select * from app_hidden.begin_connection_test($1, $2)", [tenantId, integrationId]),
    );
    if (integrationId !== null && stored.parse(rows[0]).provider !== test.provider)
      throw new ApiError("INVALID_INPUT", "provider: is not the integration's.", {
        reason: "misfit",
        field: "provider",
      });
    if (test.credentials != null) return checkCredentials(connector, test.credentials);
    const kept = sealed.safeParse(rows[0]);
    if (kept.success && integrationId !== null)
      return checkCredentials(
        connector,
        JSON.parse(openCredentials(keyRing, { tenantId, integrationId }, kept.data)),
      );
    return checkCredentials(connector, {});
  }

  return {
    providers: () => describeProviders(simulatorUrl),

    checkConfig(provider, config) {
      checkConfig(connectorNamed(provider), config, simulatorUrl);
    },

    async setCredentials(run, tenantId, integrationId, credentials) {
      const { rows } = await run({
        text: "select * from app_hidden.begin_credentials($1, $2)",
        values: [tenantId, integrationId],
      });
      const found = place.parse(rows[0]);
      checkCredentials(connectorNamed(found.provider), credentials);
      const key = await newestKey(run, tenantId, found);
      const ciphertext = seal(
        JSON.stringify(credentials),
        keyRing.unwrap(key.wrapped_key, key.kek_id, { tenantId, version: key.key_version }),
        { tenantId, table: CREDENTIALS, rowId: integrationId, version: found.version },
      );
      await run({
        text: "select app_hidden.set_integration_credentials($1, $2, $3, $4, $5)",
        values: [tenantId, integrationId, found.version, key.key_version, ciphertext],
      });
    },

    async test(identity, test) {
      claimsOf(identity);
      const connector = connectorNamed(test.provider);
      const config = checkConfig(connector, test.config, simulatorUrl);
      const credentials = await credentialsFor(identity, test, connector);
      const redact = makeRedact(credentials);
      const signal = AbortSignal.timeout(testMs);
      const given = { config, credentials, now: new Date(), signal, fetch: options.fetch };
      try {
        const baseUrl = providerUrl(connector, config, simulatorUrl);
        const { account } = await untilAborted(connector.test({ ...given, baseUrl }), signal);
        return { ok: true, account: redact(account), errorClass: null, error: null };
      } catch (error) {
        const { errorClass, sentence } = reasonOf(error, signal, redact);
        return { ok: false, account: null, errorClass, error: redact(sentence) };
      }
    },
  };
}

/** A connector that does not look at the signal is not waited for. */
const untilAborted = <Value>(work: Promise<Value>, signal: AbortSignal): Promise<Value> =>
  Promise.race([
    work,
    new Promise<never>((_resolve, reject) =>
      signal.addEventListener("abort", () => reject(signal.reason), { once: true }),
    ),
  ]);

/** Anything but what a connector foresees is our mistake; it may quote what it was given. */
function reasonOf(error: unknown, signal: AbortSignal, redact: (text: string) => string) {
  if (error instanceof ProviderError) return failureOf(error);
  if (signal.aborted) return { errorClass: "unreachable", sentence: "The provider did not answer in time." };
  if (!(error instanceof Error)) throw new Error("A connector threw something that is no error.");
  const unexpected = new Error(redact(error.message));
  unexpected.stack = redact(error.stack ?? "");
  throw unexpected;
}
