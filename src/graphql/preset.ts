import { GraphQLError } from "graphql";
import type pg from "pg";
import type { Logger } from "pino";
import "postgraphile";
import "postgraphile/grafserv/express/v4";
import { PgAggregatesPreset } from "@graphile/pg-aggregates";
import { PgSimplifyInflectionPreset } from "@graphile/simplify-inflection";
import { makePgService, type PgSubscriber } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { PostGraphileConnectionFilterPreset } from "postgraphile-plugin-connection-filter";
import { plugins } from "../../plugins/index.ts";
import type { Denials } from "../audit/denials.ts";
import type { AccountService } from "../auth/accounts.ts";
import type { KeyEnvironment } from "../auth/apiKeys.ts";
import type { LastUse } from "../auth/lastUse.ts";
import { type Identity, identityOf } from "../auth/requests.ts";
import type { SessionService } from "../auth/sessions.ts";
import type { IntegrationService } from "../integrations/service.ts";
import type { WebhookUrls } from "../webhooks/urls.ts";
import { makeMaskError } from "./errors.ts";
import { makeOnePerOperationPlugin } from "./onePerOperation.ts";
import { makeRefusalsPlugin } from "./refusals.ts";
import { ruruClientConfig } from "./ruru.ts";
import type { Changes, Subscriptions } from "./subscriptions.ts";

declare global {
  namespace Grafast {
    interface Context {
      identity: Identity;
      auth: AuthServices;
      keyEnvironment: KeyEnvironment;
      integrations: IntegrationService;
      /** Of a subscription. */
      integrationChanges: Changes | null;
      webhookUrls: WebhookUrls;
    }
  }
}

export type AuthServices = { sessions: SessionService; accounts: AccountService };
export type ApiOptions = {
  authenticatorPool: pg.Pool;
  auth: AuthServices;
  integrations: IntegrationService;
  subscriptions: Subscriptions;
  lastUse: LastUse;
  denials: Denials;
  /** Of the API keys that are made here. */
  keyEnvironment: KeyEnvironment;
  webhookUrls: WebhookUrls;
  log: Logger;
  /** Ruru, and the reasons of refused documents that name what exists. */
  development: boolean;
  introspection: boolean;
  /** Rebuild when it hears `postgraphile_watch`. */
  watch?: PgSubscriber | undefined;
  /** Add `tenant_id = $n` to generated queries. Off only in tests that prove isolation without it. */
  tenantPredicate?: boolean;
};

export function makePreset(options: ApiOptions): GraphileConfig.Preset {
  const { authenticatorPool, auth, integrations, keyEnvironment, webhookUrls, log, development, watch } =
    options;
  return {
    extends: [
      PostGraphileAmberPreset,
      PgSimplifyInflectionPreset,
      PostGraphileConnectionFilterPreset,
      PgAggregatesPreset,
    ],
    plugins: [
      ...plugins(options),
      makeOnePerOperationPlugin(authenticatorPool, options),
      makeRefusalsPlugin(options),
    ],
    disablePlugins: [
      // Global ids are off: a row's `id` is its uuid column.
      "NodePlugin",
      "QueryQueryPlugin",
      "SwallowErrorsPlugin",
      // `filter` says all that `condition` could.
      "PgConditionArgumentPlugin",
      "PgConditionCustomFieldsPlugin",
      // GroupKeysPlugin and GroupHavingPlugin take their places.
      "PgAggregatesAddGroupByAggregateEnumValuesForAttributesPlugin",
      "PgAggregatesAddHavingAggregateTypesPlugin",
    ],
    pgServices: [
      makePgService({
        pool: authenticatorPool,
        schemas: ["public"],
        ...(watch ? { pgSubscriber: watch } : { pubsub: false }),
      }),
    ],
    gather: { installWatchFixtures: false },
    schema: {
      dontSwallowErrors: true,
      connectionFilterRelations: true,
      connectionFilterAllowNullInput: true,
      connectionFilterAllowEmptyObjectInput: true,
      defaultBehavior:
        "-aggregates -resource:aggregates -groupedAggregates -resource:groupedAggregates -aggregates:filterBy -aggregates:orderBy -resource:relatedAggregates:orderBy",
    },
    grafast: {
      explain: false,
      maxPlanningDepth: 50,
      timeouts: { planning: 500, execution: 60_000 },
      context(context) {
        const request: object | undefined = context.expressv4?.req ?? context.ws?.request;
        if (!request) throw new GraphQLError("Only HTTP requests and websockets are served.");
        const identity = identityOf(request);
        // The settings are replaced for each operation by OnePerOperationPlugin.
        return {
          pgSettings: {},
          identity,
          auth,
          integrations,
          integrationChanges: null,
          keyEnvironment,
          webhookUrls,
        };
      },
    },
    ruru: { clientConfig: ruruClientConfig },
    grafserv: {
      graphqlPath: "/graphql",
      graphiql: development,
      graphiqlPath: "/graphiql",
      graphiqlOnGraphQLGET: false,
      maxRequestLength: 100_000,
      maskError: makeMaskError(log),
      watch: watch !== undefined,
      websockets: true,
    },
  };
}
