import { parse } from "csv-parse/sync";
import type { TestApi } from "./api.ts";

export type Asked = {
  token?: string | undefined;
  accept?: string;
  query?: string;
  type?: string;
  signal?: AbortSignal;
};

/** Asks for an export; the body of the answer is the caller's to read. */
export const askFor = (
  api: Pick<TestApi, "url">,
  name: "series" | "events" | "audit_log",
  body: unknown,
  { token, accept, query = "", type = "application/json", signal }: Asked = {},
) =>
  fetch(`${api.url}/v1/exports/${name}${query}`, {
    method: "POST",
    headers: {
      "content-type": type,
      ...(accept ? { accept } : {}),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
    },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });

export const readCsv = (text: string): Record<string, string>[] => parse(text, { columns: true, bom: false });
export const readLines = (text: string) =>
  text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
