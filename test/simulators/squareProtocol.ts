import { createHash } from "node:crypto";
import { z } from "zod";
import type { SquareRecord } from "./squareData.ts";

/** An error in Square's shape. */
export class Refusal extends Error {
  readonly status: number;
  readonly body: { category: string; code: string; detail: string; field?: string };

  constructor(
    status: number,
    code: string,
    detail: string,
    options: { field?: string; category?: string } = {},
  ) {
    super(detail);
    this.status = status;
    const { category = "INVALID_REQUEST_ERROR", ...field } = options;
    this.body = { category, code, detail, ...field };
  }
}

export const unauthorized = () =>
  new Refusal(401, "UNAUTHORIZED", "This request could not be authorized.", {
    category: "AUTHENTICATION_ERROR",
  });

/** One query, of either endpoint. */
type Request = {
  locationIds: string[] | undefined;
  ranges: { field: TimeField; from?: string; to?: string }[];
  sort: { field: TimeField; ascending: boolean };
  limit: number;
  cursor: string | undefined;
  /** Everything but the cursor: a cursor is good for this query only. */
  identity: string;
};
const timeFields = { CREATED_AT: "created_at", UPDATED_AT: "updated_at", CLOSED_AT: "closed_at" } as const;
type TimeField = (typeof timeFields)[keyof typeof timeFields];

const time = z.iso.datetime({ offset: true });
const range = z.strictObject({ start_at: time.optional(), end_at: time.optional() }).optional();
const sortOrder = z.enum(["ASC", "DESC"]).default("DESC");
const search = z.object({
  location_ids: z.array(z.string()).min(1).max(10),
  query: z
    .object({
      filter: z
        .object({
          date_time_filter: z
            .strictObject({ created_at: range, updated_at: range, closed_at: range })
            .default({}),
        })
        .default({ date_time_filter: {} }),
      sort: z
        .object({
          sort_field: z.enum(["CREATED_AT", "UPDATED_AT", "CLOSED_AT"]).default("CREATED_AT"),
          sort_order: sortOrder,
        })
        .default({ sort_field: "CREATED_AT", sort_order: "DESC" }),
    })
    .default({
      filter: { date_time_filter: {} },
      sort: { sort_field: "CREATED_AT", sort_order: "DESC" },
    }),
  limit: z.int().min(1).max(1000).default(500),
  cursor: z.string().optional(),
});

export function readSearchRequest(text: string): Request {
  const { cursor, ...request } = parse(search, json(text));
  const { date_time_filter } = request.query.filter;
  const { sort_field, sort_order } = request.query.sort;
  const sort = { field: timeFields[sort_field], ascending: sort_order === "ASC" };
  const ranges = (["created_at", "updated_at", "closed_at"] as const).flatMap((field) => {
    const given = date_time_filter[field];
    return given ? [{ field, ...bounds(given.start_at, given.end_at) }] : [];
  });
  if (ranges.length > 1) throw new Refusal(400, "BAD_REQUEST", "Only one time range can be given.");
  if (ranges[0] && ranges[0].field !== sort.field) {
    const field = "query.sort.sort_field";
    throw new Refusal(400, "BAD_REQUEST", `${sort_field} does not match the date time filter.`, { field });
  }
  return {
    locationIds: request.location_ids,
    ranges,
    sort,
    limit: request.limit,
    cursor,
    identity: identify(request),
  };
}

const list = z.object({
  begin_time: time.optional(),
  end_time: time.optional(),
  updated_at_begin_time: time.optional(),
  updated_at_end_time: time.optional(),
  sort_field: z.enum(["CREATED_AT", "UPDATED_AT"]).default("CREATED_AT"),
  sort_order: sortOrder,
  location_id: z.string().optional(),
  limit: z.coerce.number().int().min(1).default(100),
  cursor: z.string().optional(),
});

/** `mainLocation` stands in for a location that is left out, where Square does so. */
export function readListRequest(url: URL, mainLocation?: string): Request {
  const { cursor, ...request } = parse(list, Object.fromEntries(url.searchParams));
  const location = request.location_id ?? mainLocation;
  return {
    locationIds: location === undefined ? undefined : [location],
    ranges: [
      { field: "created_at", ...bounds(request.begin_time, request.end_time) },
      { field: "updated_at", ...bounds(request.updated_at_begin_time, request.updated_at_end_time) },
    ],
    sort: { field: timeFields[request.sort_field], ascending: request.sort_order === "ASC" },
    // More than 100 is not refused, and not given either.
    limit: Math.min(request.limit, 100),
    cursor,
    identity: identify({ path: url.pathname, ...request }),
  };
}

/** The page behind the cursor: as Square, without the list when it is empty and without a cursor when it is the last. */
export function resultPage(name: string, records: SquareRecord[], request: Request) {
  const { field, ascending } = request.sort;
  const key = (record: SquareRecord) => `${timeOf(record, field)} ${record.id}`;
  const after = request.cursor === undefined ? undefined : openCursor(request.cursor, request.identity);
  const matching = records
    .filter((record) => request.locationIds?.includes(record.location_id) ?? true)
    .filter((record) =>
      request.ranges.every(({ field, from, to }) => {
        const value = timeOf(record, field);
        return (!from || value >= from) && (!to || (value !== "" && value <= to));
      }),
    )
    .map((record) => ({ record, key: key(record) }))
    .sort((a, b) => (a.key < b.key === ascending ? -1 : 1))
    .filter((entry) => after === undefined || (ascending ? entry.key > after : entry.key < after));
  const page = matching.slice(0, request.limit);
  const last = page.at(-1);
  return {
    ...(page.length > 0 ? { [name]: page.map((entry) => entry.record) } : {}),
    ...(last && matching.length > page.length ? { cursor: makeCursor(last.key, request.identity) } : {}),
  };
}

// A cursor carries its place in itself, so that it outlives a restart of the simulator.
const cursorContent = z.object({ query: z.string(), after: z.string() });
const makeCursor = (after: string, query: string) =>
  Buffer.from(JSON.stringify({ query, after })).toString("base64url");

function openCursor(cursor: string, identity: string): string {
  const content = cursorContent.safeParse(json(Buffer.from(cursor, "base64url").toString()));
  if (content.success && content.data.query === identity) return content.data.after;
  throw new Refusal(400, "INVALID_CURSOR", "The cursor does not belong to this query.", { field: "cursor" });
}

function timeOf(record: SquareRecord, field: TimeField): string {
  const value = record[field];
  return typeof value === "string" ? value : "";
}
const identify = (query: unknown) =>
  createHash("sha256").update(JSON.stringify(query)).digest("base64url").slice(0, 16);
const utc = (text: string) => new Date(text).toISOString();
const bounds = (from?: string, to?: string) => ({
  ...(from === undefined ? {} : { from: utc(from) }),
  ...(to === undefined ? {} : { to: utc(to) }),
});

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parse<Shape>(schema: z.ZodType<Shape>, value: unknown): Shape {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join(".") ?? "";
  throw new Refusal(400, "BAD_REQUEST", issue?.message ?? "The request is malformed.", { field });
}
