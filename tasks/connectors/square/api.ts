import { z } from "zod";
import { ProviderError, type ProviderErrorKind } from "../connector.ts";

const timeoutMs = 10_000;

export type SquareCall = {
  method: "GET" | "POST";
  path: string;
  query?: Record<string, string>;
  body?: unknown;
  baseUrl: string;
  accessToken: string;
  apiVersion: string;
  signal: AbortSignal;
  fetch: typeof globalThis.fetch;
};

const errorBody = z.object({
  errors: z.array(z.object({ category: z.string(), code: z.string(), detail: z.string().optional() })).min(1),
});

/** One request to Square: the answer in the caller's shape, or a ProviderError that says what to do next. */
export async function callSquare<Shape>(call: SquareCall, shape: z.ZodType<Shape>): Promise<Shape> {
  const { response, text } = await exchange(call);
  const answer = parseJson(text);
  if (!response.ok) throw refusal(response, answer);
  if (answer === undefined)
    throw new ProviderError("transient", `Square's answer is not JSON (${call.path})`);
  const parsed = shape.safeParse(answer);
  if (parsed.success) return parsed.data;
  const problem = z.prettifyError(parsed.error);
  throw new ProviderError("permanent", `Square's answer has an unknown shape (${call.path}): ${problem}`);
}

async function exchange(call: SquareCall): Promise<{ response: Response; text: string }> {
  const url = new URL(call.path, call.baseUrl);
  for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, value);
  try {
    const response = await call.fetch(url, {
      method: call.method,
      headers: {
        Authorization: `Bearer ${call.accessToken}`,
        "Square-Version": call.apiVersion,
        Accept: "application/json",
        ...(call.body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
      // A redirect would carry us, and what we send, to a host that nobody chose.
      redirect: "error",
      signal: AbortSignal.any([call.signal, AbortSignal.timeout(timeoutMs)]),
    });
    // Read here: a body that breaks off or stalls is the same failure as a connection that does.
    return { response, text: await response.text() };
  } catch (cause) {
    call.signal.throwIfAborted();
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new ProviderError("transient", `Square could not be reached (${call.path}): ${message}`, { cause });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(response: Response, answer: unknown): ProviderError {
  const parsed = errorBody.safeParse(answer);
  const first = parsed.success ? parsed.data.errors[0] : undefined;
  const retryAfterMs = retryAfter(response.headers.get("retry-after"));
  return new ProviderError(
    kindOf(response.status),
    `Square answered ${response.status}${first ? ` ${first.code}: ${first.detail ?? first.category}` : ""}`,
    { ...(first ? { code: first.code } : {}), ...(retryAfterMs === undefined ? {} : { retryAfterMs }) },
  );
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
