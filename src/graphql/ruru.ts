import type { RequestHandler } from "express";

const EXAMPLE = `# 1. Run SignIn, then paste the accessToken below, under "Headers":
#    {"Authorization": "Bearer ..."}
mutation SignIn {
  login(input: { tenant: "acme", email: "viewer@acme.test", password: "Demo-password-1" }) {
    accessToken
    user { email role }
  }
}

# 2. The latest events.
query LatestEvents {
  analyticsEvents(first: 20, orderBy: TIMESTAMP_DESC) {
    nodes { timestamp eventType eventName value currency tenant { name } }
  }
}

# 3. Revenue by type and day.
query ValueByTypeAndDay {
  analyticsEvents(filter: { timestamp: { greaterThan: "${new Date(Date.now() - 7 * 86_400_000).toISOString().slice(0, 10)}T00:00:00Z" } }) {
    groupedAggregates(groupBy: [EVENT_TYPE, TIMESTAMP_TRUNCATED_TO_DAY]) {
      keys
      sum { value }
    }
  }
}
`;

/** Opens Ruru with the example, unless a link brought a query of its own. */
export const ruruDefaults: RequestHandler = (request, response, next) => {
  if (request.query.query !== undefined) return next();
  response.redirect(`/graphiql?query=${encodeURIComponent(EXAMPLE)}`);
};
