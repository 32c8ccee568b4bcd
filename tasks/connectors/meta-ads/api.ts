import { createHmac } from "node:crypto";
import { z } from "zod";
import { type Pause, ProviderError } from "../connector.ts";
import { MetaError, metaError } from "./errors.ts";
import type { MetaCall, MetaCredentials } from "./settings.ts";
import { pausesOf, waitOf } from "./usage.ts";

/** Meta gives up a synchronous call earlier, and says so. */
const timeoutMs = 30_000;

export type MetaQuestion = {
  method?: "GET" | "POST";
  path: string;
  params?: Record<string, string>;
  /** Whose limits the call counts against. */
  accountId: string;
};

const errorBody = z.object({
  error: z.object({
    message: z.string().optional(),
    code: z.int().optional(),
    error_subcode: z.int().optional(),
    error_user_msg: z.string().optional(),
  }),
});

/** One call: the answer in the caller's shape and the pauses that its headers ask for, or an error that says what to do. */
export async function callMeta<Shape>(
  call: MetaCall,
  question: MetaQuestion,
  shape: z.ZodType<Shape>,
): Promise<{ answer: Shape; pauses: Pause[] }> {
  const { response, text } = await exchange(call, question);
  const content = parseJson(text);
  const place = { accountId: question.accountId, appId: call.credentials.appId };
  const failure = errorBody.safeParse(content).data?.error;
  if (!response.ok || failure)
    throw metaError({
      status: response.status,
      code: failure?.code,
      subcode: failure?.error_subcode,
      message: withoutSecrets(failure?.error_user_msg ?? failure?.message ?? "", call.credentials),
      wait: (scope) => waitOf(response.headers, place, scope),
      ...place,
    });
  if (content === undefined)
    throw new MetaError("transient", `Meta's answer is not JSON (${question.path}).`);
  const parsed = shape.safeParse(content);
  if (!parsed.success)
    throw new MetaError(
      "permanent",
      `Meta's answer has an unknown shape (${question.path}): ${z.prettifyError(parsed.error)}.`,
    );
  return { answer: parsed.data, pauses: pausesOf(response.headers, place, call.config.usageThreshold) };
}

async function exchange(call: MetaCall, { method = "GET", path, params = {} }: MetaQuestion) {
  const { accessToken, appSecret } = call.credentials;
  const url = new URL(`/${call.config.apiVersion}/${path}`, call.baseUrl);
  const all = new URLSearchParams({
    ...params,
    appsecret_proof: createHmac("sha256", appSecret).update(accessToken).digest("hex"),
  });
  if (method === "GET") url.search = all.toString();
  try {
    const response = await call.fetch(url, {
      method,
      // Not in the URL, where logs and errors would show the token.
      headers: { Authorization: `Bearer ${accessToken}`, Accept: "application/json" },
      ...(method === "POST" ? { body: all } : {}),
      redirect: "error",
      signal: AbortSignal.any([call.signal, AbortSignal.timeout(timeoutMs)]),
    });
    return { response, text: await response.text() };
  } catch (cause) {
    call.signal.throwIfAborted();
    // The engine's own refusals, such as that of a private address.
    if (cause instanceof ProviderError) throw cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new MetaError("transient", `Meta could not be reached (${path}): ${message}.`, { cause });
  }
}

// Numbers outside quotes that a double may round. Meta quotes nearly all, and looking at each value is slow.
const inexact = /[:,[]\s*-?\d+(?:\.\d|[eE]|\d{12})/;

/** A number that a double would round stays text. */
function parseJson(text: string): unknown {
  const exact = (_key: string, value: unknown, ...[context]: { source?: string }[]) =>
    typeof value === "number" && !Number.isSafeInteger(value) ? (context?.source ?? value) : value;
  try {
    return inexact.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Meta quotes tokens that it does not understand. */
function withoutSecrets(text: string, credentials: MetaCredentials): string {
  const secrets = [credentials.accessToken, credentials.appSecret, credentials.verifyToken];
  return secrets.reduce<string>((rest, secret) => (secret ? rest.replaceAll(secret, "…") : rest), text);
}
