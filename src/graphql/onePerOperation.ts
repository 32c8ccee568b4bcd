import { GraphQLError, getOperationAST, Kind, NoSchemaIntrospectionCustomRule } from "graphql";
import type pg from "pg";
import type { LastUse } from "../auth/lastUse.ts";
import { OperationTransaction } from "./operationTransaction.ts";
import { type Subscriptions, untilRefused } from "./subscriptions.ts";

/** Each is an attempt to count, or has transactions of its own, which no other field can share. */
const ALONE = new Set([
  "login",
  "refreshSession",
  "acceptInvitation",
  "resetPassword",
  "confirmEmail",
  "changePassword",
  "changeEmail",
  "testIntegrationConnection",
]);

/**
 * Gives each GraphQL operation one OperationTransaction, and ends it before the answer goes out. A plugin, because
 * PostGraphile's own adaptor takes a connection and a transaction for every single SQL statement.
 */
export function makeOnePerOperationPlugin(
  pool: pg.Pool,
  options: { introspection: boolean; lastUse: LastUse; subscriptions: Subscriptions },
): GraphileConfig.Plugin {
  return {
    name: "OnePerOperationPlugin",
    version: "1.0.0",
    description: "One transaction per GraphQL operation, on one connection",
    grafast: {
      middleware: {
        async execute(next, { args }) {
          const operation = getOperationAST(args.document, args.operationName);
          const context = args.contextValue as Grafast.Context;
          const kind = operation?.operation === "mutation" ? "mutation" : "query";
          const transaction = new OperationTransaction(pool, kind, context.identity);
          context.withPgClient = transaction.withPgClient;
          let result: Awaited<ReturnType<typeof next>>;
          try {
            result = await next();
          } catch (error) {
            await transaction.abort().catch(() => {});
            throw error;
          }
          try {
            await transaction.finish();
            const { claims } = context.identity;
            if (claims && transaction.isAuthorized) options.lastUse.note(claims);
            return result;
          } catch (error) {
            const cause = error instanceof Error ? error : new Error(String(error));
            return { data: null, errors: [new GraphQLError(cause.message, { originalError: cause })] };
          }
        },
        async subscribe(next, { args }) {
          const context = args.contextValue as Grafast.Context;
          Object.assign(context, options.subscriptions.open(context.identity));
          // Counted from the beginning of the subscription, it would end each at its first event after a minute. The role's own
          // timeouts hold for each event.
          const preset = args.resolvedPreset;
          if (preset) {
            const { execution: _execution, ...timeouts } = preset.grafast?.timeouts ?? {};
            args.resolvedPreset = { ...preset, grafast: { ...preset.grafast, timeouts } };
          }
          const results = await next();
          return Symbol.asyncIterator in results ? untilRefused(results) : results;
        },
      },
    },
    grafserv: {
      middleware: {
        async setPreset(next, event) {
          await next();
          if (!options.introspection) event.validationRules.push(NoSchemaIntrospectionCustomRule);
          event.validationRules.push((validation) => ({
            OperationDefinition(node) {
              const fields = node.selectionSet.selections;
              const alone = fields.find((field) => field.kind === Kind.FIELD && ALONE.has(field.name.value));
              if (alone?.kind === Kind.FIELD && fields.length > 1)
                validation.reportError(
                  new GraphQLError(`"${alone.name.value}" must be the only field of its operation.`, {
                    nodes: alone,
                  }),
                );
              if (node.operation === "mutation")
                for (const field of fields)
                  if (field.kind !== Kind.FIELD)
                    validation.reportError(
                      new GraphQLError("A mutation names its fields directly, not in fragments.", {
                        nodes: field,
                      }),
                    );
            },
          }));
        },
      },
    },
  };
}
