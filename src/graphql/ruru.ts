const EXAMPLE = /* GraphQL */ `# 1. Run SignIn, then paste its accessToken below, under "Headers": {"Authorization": "Bearer ..."}
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

# 3. Value by type and day.
query ValueByTypeAndDay {
  analyticsEvents(filter: { currency: { equalTo: "USD" } }) {
    groupedAggregates(groupBy: [EVENT_TYPE, TIMESTAMP_TRUNCATED_TO_DAY]) {
      keys
      sum { value }
    }
  }
}
`;

const HEADERS = '{"Authorization": "Bearer "}';

/** Opens the explorer with something to run. */
export const RuruExamplePlugin: GraphileConfig.Plugin = {
  name: "RuruExamplePlugin",
  version: "1.0.0",
  description: "Opens the explorer with a sign-in and two queries",
  grafserv: {
    middleware: {
      ruruHTML(next, event) {
        Object.assign(event.config, {
          clientConfig: { ...event.config.clientConfig, defaultQuery: EXAMPLE, defaultHeaders: HEADERS },
        });
        return next();
      },
    },
  },
};
