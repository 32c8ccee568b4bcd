import type pg from "pg";
import { demoPassword, demoTenants } from "../../scripts/demo/catalogue.ts";
import { demoId, seedDemo } from "../../scripts/demo/seed.ts";
import type { KeyRing } from "../../src/crypto/keyRing.ts";
import type { TestApi } from "../support/api.ts";

/** The day of which the answers in docs/questions.md are. */
export const AS_OF = "2026-03-11";
export const demoNames = ["acme", "globex", "initech"] as const;
export type DemoName = (typeof demoNames)[number];

/** The demo as it was on that day, without rollups. Nothing is too old, however late the test runs. */
export async function seedThatDay(owner: pg.Pool, keyRing: KeyRing): Promise<void> {
  await owner.query("update app_private.plans set retention_days = null");
  await owner.query("update app_private.event_limits set max_age = '200 years', max_ahead = '200 years'");
  const tenants = demoTenants.map((tenant) => ({
    ...tenant,
    settings: { ...tenant.settings, retentionDays: undefined },
  }));
  await seedDemo(owner, keyRing, () => {}, {
    now: new Date(`${AS_OF}T00:00:00Z`),
    tenants,
    rollUp: false,
  });
}

export const tenantIds = Object.fromEntries(demoNames.map((name) => [name, demoId(name)]));

/** Access tokens of the three viewers. */
export async function signInViewers(api: TestApi): Promise<Record<string, string>> {
  const tokens: Record<string, string> = {};
  for (const name of demoNames) tokens[name] = await api.signIn(name, "viewer", demoPassword);
  return tokens;
}
