import { z } from "zod";
import { callSquare } from "./api.ts";
import type { SquareRequest } from "./settings.ts";
import type { Query, SquareCheckpoint } from "./window.ts";

const shape = z.object({
  payments: z.array(z.unknown()).default([]),
  refunds: z.array(z.unknown()).default([]),
  cursor: z.string().optional(),
});

/** GET /v2/payments and GET /v2/refunds: at most 100 records, of one location. */
export function listSquare(
  request: SquareRequest<SquareCheckpoint>,
  path: "/v2/payments" | "/v2/refunds",
  { field, from, end, locationIds, limit, cursor }: Query,
) {
  const range =
    field === "created_at"
      ? { begin_time: from, end_time: end }
      : {
          // By `created_at`, and a year ago by default: a restated record may be older. Square began in 2009.
          begin_time: "2009-01-01T00:00:00Z",
          updated_at_begin_time: from,
          updated_at_end_time: end,
        };
  const query = {
    ...range,
    sort_field: field.toUpperCase(),
    sort_order: "ASC",
    // Left out, Square would list the main location's payments only.
    location_id: locationIds[0] ?? "",
    limit: String(limit),
    ...(cursor === null ? {} : { cursor }),
  };
  return callSquare(request, { method: "GET", path, query }, shape);
}
