import { z } from "zod";
import { type Call, ProviderError, type ProviderErrorKind } from "../connector.ts";
import { accountLimit, type SquareConfig, type SquareCredentials } from "./settings.ts";

const timeoutMs = 10_000;

export type SquareCall = Call<SquareConfig, SquareCredentials>;
export type Ask = {
  method: "GET" | "POST";
  path: string;
  query?: Record<string, string>;
  body?: unknown;
  /** For the endpoint that gives tokens, and takes none. */
  anonymous?: boolean;
};

const errorBody = z.object({
  errors: z.array(z.object({ category: z.string(), code: z.string(), detail: z.string().optional() })).min(1),
});

/** One request to Square: the answer in the caller's shape, or a ProviderError that says what to do next. */
export async function callSquare<Shape>(call: SquareCall, ask: Ask, shape: z.ZodType<Shape>): Promise<Shape> {
  const { response, text } = await exchange(call, ask);
  const answer = parseJson(text);
  if (!response.ok) throw refusal(response, answer, accountLimit(call.config, call.credentials));
  if (answer === undefined)
    throw new ProviderError("transient", `Square's answer is not JSON (${ask.path}).`);
  const parsed = shape.safeParse(answer);
  if (parsed.success) return parsed.data;
  // Where it does not fit, never what it says: an answer of the token endpoint holds tokens.
  const places = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ");
  throw new ProviderError("permanent", `Square's answer has an unknown shape (${ask.path}): ${places}.`);
}

async function exchange(call: SquareCall, ask: Ask): Promise<{ response: Response; text: string }> {
  const url = new URL(ask.path, call.baseUrl);
  for (const [name, value] of Object.entries(ask.query ?? {})) url.searchParams.set(name, value);
  try {
    const response = await call.fetch(url, {
      method: ask.method,
      headers: {
        ...(ask.anonymous ? {} : { Authorization: `Bearer ${call.credentials.accessToken}` }),
        "Square-Version": call.config.apiVersion,
        Accept: "application/json",
        ...(ask.body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      ...(ask.body === undefined ? {} : { body: JSON.stringify(ask.body) }),
      // A redirect would carry us, and what we send, to a host that nobody chose.
      redirect: "error",
      signal: AbortSignal.any([call.signal, AbortSignal.timeout(timeoutMs)]),
    });
    // Read here: a body that breaks off or stalls is the same failure as a connection that does.
    return { response, text: await response.text() };
  } catch (cause) {
    call.signal.throwIfAborted();
    if (cause instanceof ProviderError) throw cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new ProviderError("transient", `Square could not be reached (${ask.path}): ${message}.`, { cause });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(response: Response, answer: unknown, scope: string): ProviderError {
  const parsed = errorBody.safeParse(answer);
  const first = parsed.success ? parsed.data.errors[0] : undefined;
  const kind = kindOf(response.status);
  const retryAfterMs = retryAfter(response.headers.get("retry-after"));
  const said = first ? ` ${first.code}: ${(first.detail ?? first.category).replace(/\.$/, "")}` : "";
  const advice =
    kind === "reauth" ? " Connect the account again, or give it the permissions that it lacks." : "";
  return new ProviderError(kind, `Square answered ${response.status}${said}.${advice}`, {
    code: first?.code ?? `HTTP ${response.status}`,
    ...(kind === "throttled" ? { scope } : {}),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

function kindOf(status: number): ProviderErrorKind {
  if (status === 429) return "throttled";
  if (status === 401 || status === 403) return "reauth";
  return status >= 500 || status === 408 ? "transient" : "permanent";
}

/** Retry-After is a number of seconds or an HTTP date. */
function retryAfter(header: string | null): number | undefined {
  if (header === null) return undefined;
  const milliseconds = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(milliseconds) ? undefined : Math.max(0, milliseconds);
}
