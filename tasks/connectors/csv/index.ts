import { defineConnector } from "../connector.ts";
import { files } from "./files.ts";
import { csvConfig, csvCredentials } from "./settings.ts";

/** Files that people upload: POST /v1/integrations/<id>/files. Nobody is called, and nobody signs in anywhere. */
export const csv = defineConnector({
  provider: "csv",
  name: "CSV files",
  config: csvConfig,
  credentials: csvCredentials,
  needsCredentials: false,
  hosts: {},
  streams: { files },
  async test() {
    return { account: "Uploaded files" };
  },
});
