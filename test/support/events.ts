import type pg from "pg";

export type Event = {
  timestamp: string;
  eventType?: string;
  eventName?: string;
  value?: string | null;
  currency?: string | null;
  source?: string | null;
  properties?: Record<string, unknown>;
};

/** Writes events past the API, as they are. */
export async function insertEvents(owner: pg.Pool, tenantId: string, events: Event[]): Promise<void> {
  const filled = events.map((event) => ({
    eventType: "order",
    eventName: "order_completed",
    properties: {},
    ...event,
  }));
  await owner.query(
    `insert into analytics_events (tenant_id, timestamp, event_type, event_name, value, currency, source, properties)
     select $1, e.* from jsonb_to_recordset($2) as e
       ("timestamp" timestamptz, "eventType" text, "eventName" text, value numeric, currency text, source text, properties jsonb)`,
    [tenantId, JSON.stringify(filled)],
  );
}
