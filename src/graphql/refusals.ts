import { isSafeError } from "postgraphile/grafast";
import { z } from "zod";
import { assertWithinLimits } from "./documentLimits.ts";
import { withoutValues } from "./errors.ts";

const refused = z.strictObject({
  errors: z.array(
    z.looseObject({ message: z.string(), extensions: z.record(z.string(), z.unknown()).optional() }),
  ),
});

/** graphql-js runs out of stack on a document that is nested thousands deep. */
const readable = (message: string) =>
  /Maximum call stack/.test(message) ? "The document is nested too deeply." : withoutValues(message);

/** How an answer without data begins. */
const PREFIX = '{"errors"';

/**
 * Documents that do not parse or validate never reach maskError: their code is added here, and their status is 400
 * whatever the client accepts. Where introspection is off, so are suggestions. So is what is wrong with a request as such: its body, method or content type.
 */
export const makeRefusalsPlugin = (options: { introspection: boolean }): GraphileConfig.Plugin => ({
  name: "RefusalsPlugin",
  version: "1.0.0",
  description: "Gives a code and a status to requests that are refused before they run",
  grafserv: {
    middleware: {
      processGraphQLRequestBody(next, event) {
        const { query } = event.body;
        if (typeof query === "string") assertWithinLimits(query);
        return next();
      },
      async processRequest(next) {
        const result = await next();
        if (result?.type === "error") {
          const { error, statusCode, headers } = result;
          // Only these were written for the client.
          if (statusCode >= 500) return result;
          const code = isSafeError(error) ? (error.extensions?.code ?? "INVALID_INPUT") : "INVALID_INPUT";
          const json = { errors: [{ message: error.message, extensions: { code: String(code) } }] };
          return {
            type: "json",
            statusCode,
            headers: { ...headers, "content-type": "application/json" },
            json,
          };
        }
        if (result?.type !== "buffer" || result.buffer.toString("utf8", 0, PREFIX.length) !== PREFIX)
          return result;
        const answer = refused.safeParse(JSON.parse(result.buffer.toString()));
        if (!answer.success) return result;
        const errors = answer.data.errors.map(({ message, locations, extensions }) => ({
          message: options.introspection
            ? readable(message)
            : readable(message).replace(/ Did you mean .*\?$/s, ""),
          ...(locations ? { locations } : {}),
          extensions: { code: "INVALID_INPUT", ...extensions },
        }));
        const buffer = Buffer.from(JSON.stringify({ errors }));
        const headers = { ...result.headers, "content-length": String(buffer.length) };
        return {
          ...result,
          statusCode: result.statusCode === 200 ? 400 : result.statusCode,
          headers,
          buffer,
        };
      },
    },
  },
});
