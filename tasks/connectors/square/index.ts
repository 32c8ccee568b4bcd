import { defineConnector } from "../connector.ts";
import { orders } from "./orders.ts";
import { payments } from "./payments.ts";
import { refreshSquare } from "./refresh.ts";
import { refunds } from "./refunds.ts";
import { accountLimit, squareConfig, squareCredentials, squareHosts } from "./settings.ts";
import { testSquare } from "./test.ts";
import { squareWebhooks } from "./webhooks.ts";

/**
 * Square's point of sale, by fetch. The SDK (`square` 46.0.0, read) leaves host, fetch, headers and cursors to its caller, but
 * its timeout ends with the headers, so that a body that stalls hangs a sync; it converts a page without checking it,
 * where records are to be judged one by one; it compares webhook signatures with `===`; and it weighs 42 MB, for
 * five endpoints.
 */
export const square = defineConnector({
  provider: "square",
  name: "Square",
  config: squareConfig,
  credentials: squareCredentials,
  hosts: squareHosts,
  readsAhead: true,
  test: testSquare,
  limits: (config, credentials) => [accountLimit(config, credentials)],
  refresh: refreshSquare,
  streams: { orders, payments, refunds },
  webhooks: squareWebhooks,
});
