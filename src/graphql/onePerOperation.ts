import {
  type ExecutionArgs,
  GraphQLError,
  getOperationAST,
  Kind,
  NoSchemaIntrospectionCustomRule,
  type OperationDefinitionNode,
} from "graphql";
import type pg from "pg";
import type { Denials } from "../audit/denials.ts";
import { findAuditReads, recordAuditRead } from "../audit/reads.ts";
import type { LastUse } from "../auth/lastUse.ts";
import type { Identity } from "../auth/requests.ts";
import { explain } from "./errors.ts";
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
  options: { introspection: boolean; lastUse: LastUse; denials: Denials; subscriptions: Subscriptions },
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
          const unrecorded = await recordReads(pool, context.identity, args);
          if (unrecorded) return failure(unrecorded);
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
            // Now that it is taken back, and before the answer goes out.
            for (const { path, originalError } of "errors" in result ? (result.errors ?? []) : [])
              await options.denials.note(context.identity, fieldOf(operation, path?.[0]), originalError);
            return result;
          } catch (error) {
            return failure(error instanceof Error ? error : new Error(String(error)));
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

const failure = (cause: Error) => ({
  data: null,
  errors: [new GraphQLError(cause.message, { originalError: cause })],
});

/** The name of a root field, whatever its alias. */
function fieldOf(
  operation: OperationDefinitionNode | null | undefined,
  key: string | number | undefined,
): string {
  const field = operation?.selectionSet.selections.find(
    (node) => node.kind === Kind.FIELD && (node.alias ?? node.name).value === key,
  );
  return field?.kind === Kind.FIELD ? field.name.value : String(key ?? "");
}

/** Documents are parsed once, and executed often. */
const readers = new WeakMap<object, boolean>();

/** Why the audit log must not be read: that could not be put on record. Who lacks the right is told so by row security. */
async function recordReads(
  pool: pg.Pool,
  identity: Identity,
  args: ExecutionArgs,
): Promise<Error | undefined> {
  const { schema, document } = args;
  if (!identity.claims || readers.get(document) === false) return undefined;
  const reads = findAuditReads(schema, document, args.variableValues ?? {});
  readers.set(document, reads.length > 0);
  if (reads.length === 0) return undefined;
  try {
    identity.auditRead = await recordAuditRead(pool, identity, "audit_log.read", reads);
  } catch (error) {
    const code = explain(error)?.code;
    if (code !== "FORBIDDEN" && code !== "UNAUTHENTICATED")
      return error instanceof Error ? error : new Error(String(error));
  }
  return undefined;
}
