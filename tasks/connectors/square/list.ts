import { z } from "zod";
import { callSquare } from "./api.ts";
import type { SquareRequest } from "./settings.ts";
import type { Query, SquareCheckpoint } from "./window.ts";

const shape = z.object({
  payments: z.array(z.unknown()).default([]),
  refunds: z.array(z.unknown()).default([]),
  cursor: z.string().optional(),
});

/** GET /v2/payments and GET /v2/refunds: at most 100 records, of one location, by `updated_at`. */
export function listSquare(
  request: SquareRequest<SquareCheckpoint>,
  path: "/v2/payments" | "/v2/refunds",
  query: Query,
) {
  return callSquare(
    {
      ...request,
      ...request.config,
      ...request.credentials,
      method: "GET",
      path,
      query: {
        // By `created_at`, and a year ago by default: a restated record may be older. Square began in 2009.
        begin_time: "2009-01-01T00:00:00Z",
        updated_at_begin_time: query.from,
        updated_at_end_time: query.end,
        sort_field: "UPDATED_AT",
        sort_order: "ASC",
        // Left out, Square would list the main location's payments only.
        location_id: query.locationIds[0] ?? "",
        limit: String(query.limit),
        ...(query.cursor === null ? {} : { cursor: query.cursor }),
      },
    },
    shape,
  );
}
