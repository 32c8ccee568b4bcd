import { z } from "zod";
import { defineConnector } from "../connector.ts";
import { callExample } from "./api.ts";
import { orders } from "./orders.ts";
import { exampleConfig, exampleCredentials, exampleHosts } from "./settings.ts";

const account = z.object({ name: z.string() });

/** See docs/connectors.md for all that a connector may say. */
export const example = defineConnector({
  provider: "example",
  name: "Example",
  config: exampleConfig,
  credentials: exampleCredentials,
  hosts: exampleHosts,
  streams: { orders },
  async test(call) {
    const { name } = await callExample(call, "/v1/account", {}, account);
    return { account: name };
  },
});
