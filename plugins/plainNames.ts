/** Names of the API that inflection would make longer. In TypeScript, because SQL has no say in inflection. */
export const PlainNamesPlugin: GraphileConfig.Plugin = {
  name: "PlainNamesPlugin",
  version: "1.0.0",
  description: "Calls the uuid column `id`, and a reference (tenant_id, user_id) `user`",
  after: ["PgAttributesPlugin", "PgRelationsPlugin", "PgSimplifyInflectionPlugin"],
  inflection: {
    ignoreReplaceIfNotExists: ["nodeIdFieldName", "_getBaseNameFromKeys"],
    replace: {
      nodeIdFieldName() {
        return "nodeId";
      },
      _attributeName(previous, _options, details) {
        return previous?.({ ...details, skipRowId: true }) ?? details.attributeName;
      },
      _getBaseNameFromKeys(previous, _options, keys) {
        return (
          previous?.(
            keys.length > 1 ? keys.filter(({ attributeName }) => attributeName !== "tenant_id") : keys,
          ) ?? null
        );
      },
    },
  },
};
