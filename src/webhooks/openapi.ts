import { problems, retryable } from "../http/openapiParts.ts";

const NOT_FOUND = "No such webhook, or a signature (token) that is not its own; the two are not told apart.";
const parameters = [
  {
    name: "integrationId",
    in: "path",
    required: true,
    description: "The integration's id. Its webhookUrl in GraphQL is the whole address.",
    schema: { type: "string", format: "uuid" },
  },
];
const refusals = {
  "404": problems(NOT_FOUND),
  "405": {
    ...problems("Webhooks are POSTed."),
    headers: { Allow: { description: "GET, POST", schema: { type: "string" } } },
  },
  "429": retryable("Too many at a time, or an address that was refused too often."),
  "503": retryable("The database is busy or away: send it again."),
};

/** For providers, who sign instead of signing in. */
export const webhookPaths = {
  "/v1/webhooks/{integrationId}": {
    post: {
      operationId: "receiveWebhook",
      summary: "Receives what a provider sends",
      description:
        "Verified by the provider's signature over the body as it was sent. The same delivery is kept once; it is on disk before the answer, and read afterwards.",
      parameters,
      requestBody: {
        required: true,
        content: { "*/*": { schema: { description: "What the provider sends: at most 1 MiB." } } },
      },
      responses: {
        "200": { description: "Kept, now or earlier." },
        "400": problems("Signed, but not readable, or sent more than five minutes ago."),
        ...refusals,
        "408": problems("The body came too slowly."),
        "413": problems("The body is too large."),
        "415": problems("Another Content-Encoding than identity."),
      },
    },
    get: {
      operationId: "answerHandshake",
      summary: "Answers a provider that asks whether the address is ours",
      description: "As Meta does, with hub.mode, hub.verify_token and hub.challenge.",
      parameters,
      responses: {
        "200": { description: "The challenge.", content: { "text/plain": { schema: { type: "string" } } } },
        ...refusals,
      },
    },
  },
};
