import { createHash } from "node:crypto";
import { z } from "zod";
import type { Place, Row, Table, TimeField } from "./squareStore.ts";

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

/** One query, of either endpoint. */
export type Request = {
  locationIds: string[] | undefined;
  ranges: { field: TimeField; from?: number; to?: number }[];
  sort: { field: TimeField; ascending: boolean };
  limit: number;
  cursor: string | undefined;
  /** Everything but the cursor: a cursor is good for this query only. */
  identity: string;
};

const time = z.iso.datetime({ offset: true });
const range = z.strictObject({ start_at: time.optional(), end_at: time.optional() }).optional();
const sortOrder = z.enum(["ASC", "DESC"]).default("DESC");
const sortField = z.enum(["CREATED_AT", "UPDATED_AT", "CLOSED_AT"]).default("CREATED_AT");
const search = z.object({
  location_ids: z
    .array(z.string())
    .min(1, "At least one location_id is required.")
    .max(10, "Cannot provide more than 10 location_ids."),
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
        .object({ sort_field: sortField, sort_order: sortOrder })
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
  const sort = { field: fieldOf[sort_field], ascending: sort_order === "ASC" };
  const ranges = (["created_at", "updated_at", "closed_at"] as const).flatMap((field) => {
    const given = date_time_filter[field];
    return given ? [{ field, ...bounds(given.start_at, given.end_at) }] : [];
  });
  if (ranges.length > 1) throw new Refusal(400, "BAD_REQUEST", "Only one time range can be given.");
  if (ranges[0] && ranges[0].field !== sort.field) {
    const field = "query.sort.sort_field";
    throw new Refusal(400, "BAD_REQUEST", `${sort_field} does not match the date time filter.`, { field });
  }
  // A larger limit is not refused, and not given either.
  const limit = Math.min(request.limit, 500);
  return { locationIds: request.location_ids, ranges, sort, limit, cursor, identity: identify(request) };
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
const yearMs = 365 * 86_400_000;

/** `mainLocation` stands in for a location that is left out, where Square does so. */
export function readListRequest(url: URL, now: number, mainLocation?: string): Request {
  const { cursor, ...request } = parse(list, Object.fromEntries(url.searchParams));
  const location = request.location_id ?? mainLocation;
  const aYearAgo = new Date(now - yearMs).toISOString();
  return {
    locationIds: location === undefined ? undefined : [location],
    ranges: [
      { field: "created_at", ...bounds(request.begin_time ?? aYearAgo, request.end_time) },
      { field: "updated_at", ...bounds(request.updated_at_begin_time, request.updated_at_end_time) },
    ],
    sort: { field: fieldOf[request.sort_field], ascending: request.sort_order === "ASC" },
    // More than 100 is not refused, and not given either.
    limit: Math.min(request.limit, 100),
    cursor,
    identity: identify({ path: url.pathname, ...request }),
  };
}

export type Page = { texts: string[]; cursor: string | undefined };

/** The page behind the cursor. `swapped`: the page after it first, then this one. */
export function resultPage(table: Table, request: Request, at: number, swapped = false): Page {
  const place = request.cursor === undefined ? undefined : openCursor(request.cursor, request.identity);
  const after = place?.after ?? startOf(request);
  const { rows, more } = take(table, request, at, after);
  const end = placeOf(rows.at(-1), request);
  const cursor = (place: Omit<CursorContent, "query">) => makeCursor({ query: request.identity, ...place });
  if (place?.resume !== undefined)
    return { ...texts(rows), cursor: place.resume ? cursor({ after: place.resume }) : undefined };
  if (!more || !end) return { ...texts(rows), cursor: undefined };
  if (!swapped) return { ...texts(rows), cursor: cursor({ after: end }) };
  const next = take(table, request, at, end);
  const resume = next.more ? (placeOf(next.rows.at(-1), request) ?? null) : null;
  return { ...texts(next.rows), cursor: cursor({ after: after ?? null, resume }) };
}

const texts = (rows: Row[]) => ({ texts: rows.map((row) => row.text) });

function take(table: Table, request: Request, at: number, after: Place | null | undefined) {
  const { field, ascending } = request.sort;
  const sorted = request.ranges.find((range) => range.field === field);
  const past = (row: Row) =>
    ascending ? row[field] > (sorted?.to ?? Infinity) : row[field] < (sorted?.from ?? -Infinity);
  const rows: Row[] = [];
  for (const row of table.scan(field, ascending, at, after ?? undefined)) {
    if (past(row)) break;
    if (after && row.id === after[0] && row[field] === after[1]) continue;
    if (!(request.locationIds?.includes(row.location) ?? true)) continue;
    if (!request.ranges.every(({ field, from, to }) => within(row[field], from, to))) continue;
    if (rows.length === request.limit) return { rows, more: true };
    rows.push(row);
  }
  return { rows, more: false };
}

const within = (time: number, from = -Infinity, to = Infinity) => time >= from && time <= to;
const placeOf = (row: Row | undefined, request: Request): Place | undefined =>
  row && [row.id, row[request.sort.field]];

/** Where the range begins: before the first id of that time, or behind the last. */
function startOf({ ranges, sort }: Request): Place | undefined {
  const range = ranges.find(({ field }) => field === sort.field);
  if (sort.ascending) return range?.from === undefined ? undefined : ["", range.from];
  return range?.to === undefined ? undefined : ["\uffff", range.to];
}

// A cursor carries its place in itself, so that it outlives a restart of the simulator.
const place = z.tuple([z.string(), z.number()]);
const cursorContent = z.object({
  query: z.string(),
  after: place.nullable(),
  /** After pages that changed places: where it goes on, null at the end. */
  resume: place.nullish(),
});
type CursorContent = z.output<typeof cursorContent>;
const makeCursor = (content: CursorContent) => Buffer.from(JSON.stringify(content)).toString("base64url");

function openCursor(cursor: string, identity: string): CursorContent {
  const content = cursorContent.safeParse(json(Buffer.from(cursor, "base64url").toString()));
  if (content.success && content.data.query === identity) return content.data;
  throw new Refusal(400, "INVALID_CURSOR", "The cursor does not belong to this query.", { field: "cursor" });
}

const fieldOf = { CREATED_AT: "created_at", UPDATED_AT: "updated_at", CLOSED_AT: "closed_at" } as const;
const identify = (query: unknown) =>
  createHash("sha256").update(JSON.stringify(query)).digest("base64url").slice(0, 16);
const bounds = (from?: string, to?: string) => ({
  ...(from === undefined ? {} : { from: Date.parse(from) }),
  ...(to === undefined ? {} : { to: Date.parse(to) }),
});

export function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function parse<Shape>(schema: z.ZodType<Shape>, value: unknown): Shape {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join(".") ?? "";
  throw new Refusal(400, "BAD_REQUEST", issue?.message ?? "The request is malformed.", { field });
}
