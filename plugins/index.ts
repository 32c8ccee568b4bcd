import type { ApiOptions } from "../src/graphql/preset.ts";
import { AccountsPlugin } from "./accounts.ts";
import { AggregateMeasuresPlugin } from "./aggregateMeasures.ts";
import { ApiKeysPlugin } from "./apiKeys.ts";
import { AuditReadablePlugin } from "./auditReadable.ts";
import { EventSeriesPlugin } from "./eventSeries.ts";
import { EventsPlugin } from "./events.ts";
import { GroupedAggregatesPlugin } from "./groupedAggregates.ts";
import { GroupHavingPlugin } from "./groupHaving.ts";
import { GroupKeysPlugin } from "./groupKeys.ts";
import { IntegrationConfigPlugin } from "./integrationConfig.ts";
import { IntegrationsPlugin } from "./integrations.ts";
import { IntegrationUpdatedPlugin } from "./integrationUpdated.ts";
import { MetricInputsPlugin, MetricsPlugin } from "./metrics.ts";
import { NotFoundPlugin } from "./notFound.ts";
import { PageSizePlugin } from "./pageSize.ts";
import { PlainNamesPlugin } from "./plainNames.ts";
import { RequiredInputsPlugin } from "./requiredInputs.ts";
import { SignInPlugin } from "./signIn.ts";
import { smartTags } from "./smartTags.ts";
import { TenantPredicatePlugin } from "./tenantPredicate.ts";
import { TimeZonesPlugin } from "./timeZones.ts";
import { VisitsPlugin } from "./visits.ts";
import { WebhookUrlPlugin } from "./webhookUrl.ts";

/** The plugins, each with the reason why SQL could not do it. */
export const plugins = (options: Pick<ApiOptions, "tenantPredicate">): GraphileConfig.Plugin[] => [
  // What is exposed of tables and constraints, beside what grants say.
  smartTags,
  // `id` for the column, `user` for (tenant_id, user_id).
  PlainNamesPlugin,
  // SQL cannot say which arguments of a function must be there, where others may be left out.
  RequiredInputsPlugin,
  // PostgreSQL has no argon2 and signs no tokens.
  SignInPlugin,
  // Nor must it see passwords and the tokens of links.
  AccountsPlugin,
  // Nor the secrets of API keys.
  ApiKeysPlugin,
  // Nor the credentials of integrations, whose connectors are TypeScript,
  IntegrationsPlugin,
  // and say what may be in their settings.
  IntegrationConfigPlugin,
  // PostgreSQL notifies, but has no sockets.
  IntegrationUpdatedPlugin,
  // Signs the tokens of an operator's visit.
  VisitsPlugin,
  // SQL cannot tell a field that is left out from one that is null.
  EventsPlugin,
  // SQL that writes SQL would be read by nobody.
  EventSeriesPlugin,
  // Formulas are read in TypeScript.
  MetricsPlugin,
  // A column of JSON says nothing of what is in it.
  MetricInputsPlugin,
  // PostgreSQL does not know how we are reached, nor which connectors take webhooks.
  WebhookUrlPlugin,
  // pg-aggregates generates the SQL of aggregates, and is extended by plugins alone: more measures,
  AggregateMeasuresPlugin,
  // time zones that are known by name,
  TimeZonesPlugin,
  // more to group by, and keys with their types,
  GroupKeysPlugin,
  // conditions that are of the aggregate's type,
  GroupHavingPlugin,
  // and an order and an end.
  GroupedAggregatesPlugin,
  // The log is told for people as it is exported and verified.
  AuditReadablePlugin,
  // Row security cannot limit how many rows are asked for.
  PageSizePlugin,
  // To PostgreSQL a statement that changes no row is no error.
  NotFoundPlugin,
  // Gives the planner a parameter, and a router its shard; row security decides without it.
  ...(options.tenantPredicate === false ? [] : [TenantPredicatePlugin]),
];
