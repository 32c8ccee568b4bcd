import type { Config } from "./config.ts";
import type { DatabaseUrls } from "./db/database.ts";

/** What a person wants to know once everything runs. */
export function welcome({
  config,
  urls,
  demo,
}: {
  config: Config;
  urls: DatabaseUrls;
  demo: boolean;
}): string {
  const base = `http://${config.HOST.includes(":") ? `[${config.HOST}]` : config.HOST}:${config.PORT}`;
  const lines = ["", `GraphQL    ${base}/graphql`];
  if (config.NODE_ENV !== "production") lines.push(`Explorer   ${base}/graphiql`);
  if (demo)
    lines.push(
      `SQL        psql ${urls.owner}`,
      "",
      "Sign in as admin@, user@ or viewer@ acme.test, globex.test or initech.test, or as super@platform.test;",
      'the tenant is "acme", "globex", "initech" or "platform", the password of all is Demo-password-1.',
    );
  lines.push("", "Ctrl-C stops everything.", "");
  return lines.join("\n");
}
