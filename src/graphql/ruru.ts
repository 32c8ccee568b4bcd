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

type ClientConfig = NonNullable<NonNullable<GraphileConfig.Preset["ruru"]>["clientConfig"]>;

/** What the explorer opens with. A cast, because ruru's types make every option mandatory without React's. */
export const ruruClientConfig = {
  defaultQuery: EXAMPLE,
  defaultHeaders: '{"Authorization": "Bearer "}',
} as ClientConfig;
