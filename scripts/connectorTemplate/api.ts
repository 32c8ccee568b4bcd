import type { z } from "zod";
import { ProviderError, type ProviderErrorKind } from "../connector.ts";
import type { ExampleCall } from "./settings.ts";

const TIMEOUT_MS = 10_000;

/** One request: the answer in the caller's shape, or a ProviderError that says what the engine does next. */
export async function callExample<Shape>(
  call: ExampleCall,
  path: string,
  query: Record<string, string>,
  shape: z.ZodType<Shape>,
): Promise<Shape> {
  const { response, text } = await exchange(call, path, query);
  if (!response.ok)
    throw new ProviderError(kindOf(response.status), `Example answered ${response.status}.`, {
      code: String(response.status),
      ...retryAfter(response.headers.get("retry-after")),
    });
  const parsed = shape.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  // Where it does not fit, never what it says: answers may hold secrets.
  const places = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ");
  throw new ProviderError("transient", `Example's answer has an unknown shape (${path}): ${places}.`);
}

async function exchange(call: ExampleCall, path: string, query: Record<string, string>) {
  const url = new URL(path, call.baseUrl);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  try {
    const response = await call.fetch(url, {
      headers: { Authorization: `Bearer ${call.credentials.accessToken}`, Accept: "application/json" },
      signal: AbortSignal.any([call.signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    // Read here: a body that breaks off or stalls is the same failure as a connection that does.
    return { response, text: await response.text() };
  } catch (cause) {
    call.signal.throwIfAborted();
    // The engine's own, such as of an address that may not be called.
    if (cause instanceof ProviderError) throw cause;
    throw new ProviderError("transient", `Example could not be reached (${path}).`, { cause });
  }
}

/** What is no JSON fits no shape. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function kindOf(status: number): ProviderErrorKind {
  if (status === 429) return "throttled";
  if (status === 401 || status === 403) return "reauth";
  return status >= 500 || status === 408 ? "transient" : "permanent";
}

const retryAfter = (header: string | null) =>
  header !== null && /^\d+$/.test(header) ? { retryAfterMs: Number(header) * 1000 } : {};
