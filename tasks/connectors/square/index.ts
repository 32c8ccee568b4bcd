import { defineConnector } from "../connector.ts";
import { orders } from "./orders.ts";
import { payments } from "./payments.ts";
import { refunds } from "./refunds.ts";
import { squareConfig, squareCredentials, squareHosts } from "./settings.ts";
import { testSquare } from "./test.ts";

/**
 * Square's point of sale. Plain fetch instead of the SDK: three endpoints, whose cursors and headers are ours to keep,
 * and answers that are parsed record by record.
 */
export const square = defineConnector({
  provider: "square",
  name: "Square",
  config: squareConfig,
  credentials: squareCredentials,
  hosts: squareHosts,
  readsAhead: true,
  test: testSquare,
  streams: { orders, payments, refunds },
});
