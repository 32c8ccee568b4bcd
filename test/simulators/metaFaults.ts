import type { MetaErrorName } from "./metaProtocol.ts";

export type MetaFault = {
  kind:
    | ("error" | "hang" | "truncated" | "badJson" | "badGateway" | "repeatedPage" | "reorderedPages")
    | ("reportFailed" | "reportSkipped" | "reportStuck" | "reportExpired");
  /** For "error": which. */
  error?: MetaErrorName;
  /** For "error": other words than usual. */
  message?: string;
  /** For "reportFailed": what the report says. */
  reportError?: MetaErrorName;
  /** How many requests it befalls; once by default. */
  times?: number;
  /** How many matching requests pass before. */
  after?: number;
  /** Only these requests. */
  method?: string;
  path?: RegExp;
  /** Only pages behind a cursor, or only first pages. */
  behindCursor?: boolean;
  headers?: Record<string, string>;
};

type Corruption = (row: Record<string, unknown>) => unknown;

/** One fault at a time, which wears off. */
export function makeFaults(first: MetaFault | undefined) {
  let fault = first;
  let struck = 0;
  let corruption: Corruption | undefined;

  function befalls(next: MetaFault, method: string, path: string, behindCursor: boolean): boolean {
    if (next.method !== undefined && next.method !== method) return false;
    if (next.behindCursor !== undefined && next.behindCursor !== behindCursor) return false;
    if (next.kind.startsWith("report") && !/^\d+$/.test(path)) return false;
    if ((next.kind === "repeatedPage" || next.kind === "reorderedPages") && !path.endsWith("/insights"))
      return false;
    return next.path?.test(path) ?? true;
  }

  return {
    set: (next: MetaFault | undefined) => {
      fault = next;
      struck = 0;
    },
    /** How many requests it has befallen. */
    struck: () => struck,
    setCorruption: (next: Corruption | undefined) => {
      corruption = next;
    },
    corrupt: (row: Record<string, unknown>) => (corruption ? corruption(row) : row),
    take(method: string, path: string, behindCursor: boolean): MetaFault | undefined {
      const current = fault;
      if (!current || !befalls(current, method, path, behindCursor)) return undefined;
      if (current.after) {
        fault = { ...current, after: current.after - 1 };
        return undefined;
      }
      struck++;
      const times = (current.times ?? 1) - 1;
      fault = times > 0 ? { ...current, times } : undefined;
      return current;
    },
  };
}
