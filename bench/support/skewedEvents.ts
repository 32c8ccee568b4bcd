import type pg from "pg";
import { YEAR } from "./analystQuestions.ts";

const TENANTS = 100;
const LARGEST_SHARE = 0.2;
const BATCH = 500_000;

/** Tenants of very different size, and their events over two years. Returns the largest, and the claims of its viewer. */
export async function fillEvents(owner: pg.Pool, count: number) {
  await owner.query(
    `select app_private.make_partition('analytics_events', month::date)
       from generate_series($1::timestamptz - interval '13 months', $2::timestamptz + interval '1 month', interval '1 month') month`,
    [YEAR.from, YEAR.to],
  );
  await owner.query(
    `insert into tenants (name, slug, status, settings)
     select 'Tenant ' || i, 't' || i, 'ACTIVE', '{"timeZone": "America/New_York", "weekStart": 1}' from generate_series(1, $1) i`,
    [TENANTS],
  );
  const { rows } = await owner.query("select id from tenants order by length(slug), slug");
  const ids: string[] = rows.map(({ id }) => id);
  const largest = ids[0] ?? "";
  // The others share the rest as 1, 1/2, 1/3, ...
  const harmonic = ids.slice(1).reduce((sum, _, index) => sum + 1 / (index + 1), 0);
  for (const [index, id] of ids.entries()) {
    const share = index === 0 ? LARGEST_SHARE : ((1 - LARGEST_SHARE) * (1 / index)) / harmonic;
    const wanted = Math.round(count * share);
    for (let from = 0; from < wanted; from += BATCH)
      await owner.query(
        `insert into analytics_events (tenant_id, event_type, event_name, "timestamp", value, currency, source, source_id, properties, subject)
         select $1, t.event_type, t.event_name,
                -- From 8 to 22 o'clock.
                date_trunc('day', $4::timestamptz - interval '364 days' + i * interval '728 days' / $3, 'America/New_York')
                  + interval '8 hours' + random() * interval '14 hours',
                case t.event_type when 'visit' then null else round((random() * 200)::numeric, 2) * case t.event_type when 'refund' then -1 else 1 end end,
                case t.event_type when 'visit' then null else 'USD' end,
                case t.event_type when 'visit' then 'web' else (array['square:1', 'square:2'])[1 + (i / 10) % 2] end, t.event_type || ':' || i,
                jsonb_build_object('channel', (array['online', 'in_store', 'delivery', 'search', 'social'])[1 + (random() * 4)::integer],
                                   'customerId', 'c' || (random() * 20000)::integer, 'lineCount', 1 + i % 7),
                'c' || (random() * 20000)::integer
           from generate_series($2::bigint, $2 + $5 - 1) i
          cross join lateral (
            select (array['order', 'order', 'order', 'payment', 'payment', 'refund', 'visit', 'visit', 'visit', 'visit'])[1 + i % 10] as event_type,
                   (array['order_completed', 'order_completed', 'order_canceled', 'payment_completed', 'payment_completed',
                          'refund_completed', 'visit_started', 'visit_started', 'visit_started', 'visit_started'])[1 + i % 10] as event_name
          ) t`,
        [id, from, wanted, YEAR.from, Math.min(BATCH, wanted - from)],
      );
  }
  const user = await owner.query(
    "insert into users (tenant_id, email, role) values ($1, 'viewer@bench.test', 'VIEWER') returning id",
    [largest],
  );
  const session = await owner.query(
    "insert into sessions (tenant_id, user_id, expires_at) values ($1, $2, now() + interval '1 day') returning id",
    [largest, user.rows[0].id],
  );
  const claims = {
    sub: user.rows[0].id,
    tenant_id: largest,
    role: "VIEWER" as const,
    sid: session.rows[0].id,
  };
  return { largest, claims };
}
