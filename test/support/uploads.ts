import { gzipSync } from "node:zlib";
import type { TestApi } from "./api.ts";
import type { TestDatabase } from "./database.ts";

export const mapping = {
  delimiter: ";",
  decimalSeparator: ",",
  eventType: { constant: "order" },
  eventName: { constant: "order_completed" },
  timestamp: { column: "Datum", format: "dd.MM.yyyy HH:mm", timeZone: "Europe/Berlin" },
  value: { column: "Betrag" },
  currency: { constant: "EUR" },
  sourceId: { columns: ["Belegnr"] },
  properties: { locationId: { column: "Filiale" } },
};
export const HEADER = "Belegnr;Datum;Betrag;Filiale";
export const line = (index: number, betrag = `1.000,${String(index % 100).padStart(2, "0")}`) =>
  `${index};${String(1 + (index % 28)).padStart(2, "0")}.03.2026 10:30;${betrag};Mitte`;
/** A file of these lines. */
export const csvOf = (...lines: string[]) => `${[HEADER, ...lines].join("\n")}\n`;

/** An integration of the provider csv. */
export async function createCsvIntegration(
  database: Pick<TestDatabase, "owner">,
  tenantId: string,
  config: object = mapping,
): Promise<string> {
  const { rows } = await database.owner.query(
    "insert into integrations (tenant_id, name, provider, config) values ($1, 'Files', 'csv', $2) returning id",
    [tenantId, JSON.stringify(config)],
  );
  return rows[0].id;
}

export type Sent = {
  token?: string | undefined;
  type?: string;
  query?: string;
  isPacked?: boolean;
  headers?: Record<string, string>;
};
// biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
export type Answered = { status: number; body: any; headers: Headers };

/** Sends a file; `path` is behind /v1. */
export async function send(
  api: Pick<TestApi, "url">,
  path: string,
  file: string | Buffer | ReadableStream,
  { token, type = "text/csv", query = "", isPacked = false, headers = {} }: Sent = {},
): Promise<Answered> {
  const body = isPacked && !(file instanceof ReadableStream) ? gzipSync(file) : file;
  const response = await fetch(`${api.url}/v1${path}${query}`, {
    method: "POST",
    headers: {
      "content-type": type,
      ...(isPacked ? { "content-encoding": "gzip" } : {}),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...headers,
    },
    body: body instanceof Buffer ? new Uint8Array(body) : body,
    ...(body instanceof ReadableStream ? { duplex: "half" as const } : {}),
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

/** A file of so many lines. */
export const csvOfCount = (count: number) =>
  `${HEADER}\n${Array.from({ length: count }, (_, index) => `${line(index)}\n`).join("")}`;
